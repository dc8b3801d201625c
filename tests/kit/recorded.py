"""Run folders as training leaves them, of real rollouts of the miniature whose policy follows a script.

`make_run` is for pages: characters are ids, texts are hostile, and rollouts have learned and failed. `recorded_run` is
for replay: it has the miniature's own tokenizer, and a network if one is wanted. Nothing in them depends on the hour.
"""

import json
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from aipo.config.build import Experiment, load_experiment
from aipo.errors import PolicyError
from aipo.evaluate.choice import SETTINGS
from aipo.evaluate.parts import evaluate
from aipo.method.rows import CODES
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.replay.questions.loss import replay_loss
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec
from aipo.run import RunFolder, keep_tokenizer
from aipo.trace import Mode, Role, Trace
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStats, TokenStatsStore
from aipo.util.files import write_json, write_text
from envs.miniature.model import network, tokenizer

HOSTILE = (
    "</pre></style></script><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\">\u202eevil\u2028{{ 7*7 }}"
)
NAMES = ("verify", "knowledge", "reasoning")
TAGS = [f"<{kind}:{name}>" for kind in ("consult", "feedback") for name in NAMES]
ALPHABET = "\n" + "".join(c for c in string.printable if c.isprintable()) + "\u202e\u2028é"
TOKENIZER = CharTokenizer([*TAGS, "</consult>", "</feedback>"], ALPHABET)
_QUESTION = re.compile(r"^(?:(\d@\d)|(\d+))\+(\d+)=\?$", re.MULTILINE)


def script(context: str) -> str:
    """What the policy writes next."""
    fact, number, operand = _question(context)
    replies = re.findall(r"<feedback:\w+>(.*?)</feedback>", context)
    if context.startswith("agents") and not replies:
        return (
            f"<consult:knowledge>{fact}</consult>"
            if fact
            else f"<consult:verify>{number}+{operand}=0</consult>"
        )
    if replies:
        value = int(replies[0].rpartition("=")[2])
        total = value + operand if fact else value
        return f"{replies[0]}\n#{total}"
    if fact:
        return f"{HOSTILE}\n#0"
    if operand % 5 == 0:
        raise PolicyError(f"sampling failed: got {operand}, allowed numbers that 5 does not divide")
    return f"{number}+{operand}={number + operand + operand % 2}\n#{number + operand + operand % 2}"


def _question(context: str) -> tuple[str | None, int, int]:
    match = _QUESTION.search(context)
    assert match, context
    return match[1], int(match[2] or 0), int(match[3])


LEARNED = {
    "method.credit": "group",
    "method.scale_by_std": True,
    "method.coefficient": "constant",
    "method.assist_share_end": "null",
}
"""What the little run `aipo` has learned: advantages of both signs, and agents' tokens, too."""


def make_run(
    path: Path, preset: str = "aipo_distil", *, steps: int = 2, tasks: int = 4, **changes: Any
) -> RunFolder:
    """A run folder as training leaves it, without checkpoints and model."""
    given = {"train.steps": steps, "train.tasks_per_step": tasks, "train.group_size": 4, "run.out": path}
    experiment = load_experiment(preset, [f"{name}={value}" for name, value in {**given, **changes}.items()])
    folder = describe(RunFolder(path), experiment, save_tokenizer)
    for step in range(steps):
        write_step(folder, experiment, step)
    return folder


def write_step(folder: RunFolder, experiment: Experiment, step: int, *, seal: bool = True) -> list[Trace]:
    """The rollouts of one step, and its lines of metrics; unsealed they stay in the journal."""
    plan = experiment.plan(experiment.tasks(step), step)
    store = TraceStore(folder.traces, decode=TOKENIZER.decode)
    rolled = _engine(experiment, folder.path.name).run_sync(plan, store.append)
    if not seal:
        store.close()
        return rolled
    credited = list(experiment.credit(rolled).traces)
    store.seal(step, credited)
    store.close()
    TokenStatsStore(folder.token_stats).publish(step, [stats_of_row(t) for t in credited if t.advantage])
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_metrics(step, credited)) + "\n")
    return credited


def make_evaluation(folder: RunFolder, name: str, *, tasks: int = 2) -> None:
    """What `aipo eval` leaves: pass@1 by split and setting, and the traces."""
    engine = _engine(load_experiment("aipo_distil"), f"{folder.path.name}-{name}")
    keep_tokenizer(folder, save_tokenizer)
    results: dict[str, Any] = {}
    with TraceStore(folder.evaluation(name).with_suffix(""), decode=TOKENIZER.decode) as store:
        for setting in ("solo", "assisted"):
            mode, suppress = SETTINGS[setting]
            evaluation = evaluate(
                engine,
                engine.env.tasks("easy")[:tasks],
                mode=mode,
                samples=1,
                ks=(1,),
                seed=0,
                suppress=suppress,
                on_trace=store.append,
            )
            results[setting] = asdict(evaluation)
    write_json(folder.evaluation(name), {"easy": results})


def save_tokenizer(path: str, tokenizer: Tokenizer | None = None) -> None:
    """A tokenizer as `tokenizers` reads it; None = the one of characters."""
    if tokenizer is None:
        vocab = {TOKENIZER.decode([i]): i for i in range(len(TOKENIZER))}
        tokenizer = Tokenizer(WordLevel(vocab, unk_token="\ufffd"))
        tokenizer.decoder = Fuse()
    Path(path).mkdir(parents=True)
    tokenizer.save(f"{path}/tokenizer.json")


def describe(
    folder: RunFolder, experiment: Experiment, save: Callable[[str], object], policy: str = "scripted"
) -> RunFolder:
    """What a run writes before its first rollout."""
    write_text(folder.config, experiment.to_yaml())
    write_json(folder.manifest, experiment.manifest(policy))
    write_json(folder.graph, experiment.drawing())
    keep_tokenizer(folder, save)
    return folder


def _engine(experiment: Experiment, run_id: str) -> RolloutEngine:
    policy: Any = ScriptedPolicy(TOKENIZER, script)
    return experiment.engine(policy, run_id=run_id)


def _metrics(step: int, traces: Sequence[Trace]) -> dict[str, Any]:
    def mean(keep: Callable[[Trace], bool]) -> float | None:
        rewards = [t.reward for t in traces if t.reward is not None and keep(t)]
        return sum(rewards) / len(rewards) if rewards else None

    row = {
        "step": step + 1,
        "reward/assisted": mean(lambda t: t.mode == "assisted"),
        "reward/solo": mean(lambda t: t.mode == "solo"),
        "consults/knowledge": sum(c.agent == "knowledge" for t in traces for c in t.consults) / len(traces),
        "clip/policy": 0.01 * step,
        "loss_share/policy": 0.75,
        "loss_share/agent": 0.25,
    }
    return {name: value for name, value in row.items() if value is not None}


def stats_of_row(trace: Trace) -> TokenStats:
    """As if each token's ratio had stayed 1, and sampler and trainer had disagreed on the second one."""
    rest = [(i, s) for i, s in enumerate(trace.segments) if s.role is not Role.PROMPT]
    segments = np.concatenate([np.full(len(s), i, np.int32) for i, s in rest])
    codes = np.concatenate([np.full(len(s), CODES[s.role], np.int8) for _, s in rest])
    policy = codes == CODES[Role.POLICY]
    weights = np.where(policy, 1.0, 0.5).astype(np.float32)
    weights[np.flatnonzero(policy)[1:2]] = 0.0
    return TokenStats(
        trace_id=trace.trace_id,
        kind="sampled",
        step=trace.step,
        optimizer_step=trace.step + 1,
        segments_T=segments,
        codes_T=codes,
        weights_T=weights,
        ratios_T=np.where(policy, 1.0, np.nan).astype(np.float32),
        clipped_T=np.zeros(len(codes), np.bool_),
        advantage=trace.advantage or 0.0,
    )


# -- for replay ------------------------------------------------------------------------------------------

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
    given = [f"run.out={out}", "run.threads=1", "rollout.max_tokens=96", *overrides]
    experiment = load_experiment("aipo_distil", given)
    words = HFTokenizer(tokenizer())
    folder = describe(RunFolder.create(out), experiment, words.inner.save_pretrained, "a model")
    policy: Any = ScriptedPolicy(words, says, logprob=-0.25)
    engine = experiment.engine(policy, run_id=out.name)
    with TraceStore(folder.traces, decode=words.decode) as store:
        for step in range(STEPS):
            store.seal(step, engine.run_sync(_specs(engine.env.tasks("hard"), step), lambda _: None))
    if trained:
        model = network(len(words))
        model.save_pretrained(folder.model)
        words.inner.save_pretrained(folder.model)
    return folder


def traces(folder: RunFolder) -> list[Trace]:
    return list(TraceStore(folder.traces).read())


def report(out: Path) -> dict[str, Any]:
    """What a question of `aipo replay` left."""
    return json.loads((out / "replay.json").read_text())


def replayed_losses(
    run: Path, out: Path, *, code: int = 0, console: Console | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """The numbers that `aipo replay loss` leaves; `changes` are options of the command."""
    given = {"checkpoint": "exact", "grid": (), "overrides": (), "steps": None, "gradients": True}
    assert replay_loss(run, out=out, console=console or Console(quiet=True), **(given | changes)) == code
    return report(out)["values"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, to see that nothing was written."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _specs(tasks: Sequence[Task], step: int) -> list[RolloutSpec]:
    return [
        RolloutSpec(
            task=tasks[17 * (2 * step + group)],
            mode=Mode.SOLO if index else Mode.ASSISTED,
            group_id=f"{step:05d}-{group:03d}",
            index=index,
            step=step,
            seed=index,
        )
        for group in range(2)
        for index in range(2)
    ]
