"""What the replay tests share: a run folder as training leaves it, of rollouts that a script wrote."""

import re
from collections.abc import Sequence
from pathlib import Path

from aipo.config.build import build_env, build_graphs, drawing, manifest
from aipo.config.load import dump, load_config
from aipo.policies import Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.spec import RolloutSpec
from aipo.run import RunFolder, keep_tokenizer
from aipo.trace import Mode, Trace
from aipo.trace.store import TraceStore
from aipo.util.files import write_json, write_text
from envs.miniature_model import network, tokenizer

STEPS = 2


def says(context: str) -> str:
    """Asks for the fact, adds, and answers; alone it answers 111."""
    words = context.replace("<eos>", "")
    question = re.search(r"([0-9]@[0-9])\+([0-9]+)=\?", words)
    if question is None or not words.startswith("agents"):
        return "#111\n"
    known = re.search(rf"<feedback:knowledge>{question[1]}=([0-9]+)</feedback>", words)
    if known is None:
        return f"<consult:knowledge>{question[1]}</consult>"
    total = int(known[1]) + int(question[2])
    claim = f"{known[1]}+{question[2]}={total}"
    if "<feedback:verify>" not in words:
        return f"<consult:verify>{claim}</consult>"
    return f"\n#{total}\n"


def recorded_run(out: Path, overrides: Sequence[str] = (), *, trained: bool = False) -> RunFolder:
    """`STEPS` steps of two groups of two rollouts, one assisted and one alone. `trained`: with a (random) policy."""
    folder = RunFolder.create(out)
    config = load_config("aipo", [f"run.out={out}", "run.threads=1", "rollout.max_tokens=96", *overrides])
    graphs, env = build_graphs(config), build_env(config)
    words = HFTokenizer(tokenizer())
    engine = RolloutEngine(
        graph=graphs.graph,
        env=env,
        policies={"policy": ScriptedPolicy(words, says, logprob=-0.25)},
        chats=graphs.chats,
        sampling=Sampling(max_tokens=96),
        reward_weights=config.rollout.reward_weights,
        deadline=60.0,
        concurrency=8,
        run_id=out.name,
        fingerprints=graphs.fingerprints,
    )
    write_text(folder.config, dump(config))
    write_json(folder.manifest, manifest(config, graphs, "a model"))
    write_json(folder.graph, drawing(graphs.graph))
    keep_tokenizer(folder, words.inner.save_pretrained)
    with TraceStore(folder.traces, decode=words.decode) as store:
        for step in range(STEPS):
            store.seal(step, engine.run_sync(_specs(env.tasks("hard"), step), lambda _: None))
    if trained:
        model = network(len(words))
        model.save_pretrained(folder.model)
        words.inner.save_pretrained(folder.model)
    return folder


def traces(folder: RunFolder) -> list[Trace]:
    return list(TraceStore(folder.traces).read())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, to see that nothing was written."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _specs(tasks: Sequence[object], step: int) -> list[RolloutSpec]:
    return [
        RolloutSpec(
            task=tasks[17 * (2 * step + group)],  # type: ignore[arg-type]
            mode=Mode.SOLO if index else Mode.ASSISTED,
            group_id=f"{step:05d}-{group:03d}",
            index=index,
            step=step,
            seed=index,
        )
        for group in range(2)
        for index in range(2)
    ]
