"""A real run in a second: random weights, an agent that always answers, a reward that anybody can get."""

from pathlib import Path

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.train.run import train_run
from envs.miniature.model import tokenizer
from kit.tiny import qwen2

CODE = '''
import string

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from aipo.rollout.graph import RolloutContext, RolloutState
from aipo.trace import Consult, Mode, Role, StopReason, segment
from envs.miniature import Miniature


class Parity(Miniature):
    """Rewards an even number of characters."""

    def score(self, task, text):
        return {"correct": float(len(text) % 2 == 0)}


def helped(agents, solo=""):
    """The policy writes up to a letter, an agent says two digits, the policy goes on. Solo prompts begin with `solo`."""

    async def ask(state: RolloutState, runtime: Runtime[RolloutContext]):
        ids = runtime.context.policies["policy"].tokenizer.encode_prompt(
            str(solo) * (runtime.context.mode is Mode.SOLO) + runtime.context.task.prompt
        )
        return {"segments": [segment(Role.PROMPT, "prompt", ids)]}

    async def think(state: RolloutState, runtime: Runtime[RolloutContext]):
        piece, finish = await runtime.context.sample(state["segments"], stop=tuple(string.ascii_letters))
        return {"segments": [piece]}

    async def tell(state: RolloutState, runtime: Runtime[RolloutContext]):
        if runtime.context.mode is Mode.SOLO or runtime.context.room(state["segments"]) < 4:
            return {}
        names = list(agents)[:2]
        name = names[runtime.context.seed % 2]
        ids = runtime.context.policies["policy"].tokenizer.encode(f"{runtime.context.seed % 90 + 10}")
        told = Consult(agent=name, request="?", reply="!", request_segment=1, request_start=0, reply_segment=2)
        return {"segments": [segment(Role.AGENT, name, ids)], "consults": [told]}

    async def end(state: RolloutState, runtime: Runtime[RolloutContext]):
        context, segments = runtime.context, state["segments"]
        pieces = []
        if context.room(segments) > 0:
            piece, _ = await context.sample(segments, stop=tuple(string.ascii_letters))
            pieces.append(piece)
        own = [s for s in [*segments, *pieces] if s.role is Role.POLICY]
        text = "".join(context.policies["policy"].tokenizer.decode(s.token_ids) for s in own)
        parts = context.env.score(context.task, text)
        return {"segments": pieces, "stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": parts}}

    graph = StateGraph(RolloutState, context_schema=RolloutContext)
    nodes = {"ask": ask, "think": think, "tell": tell, "end": end}
    for last, (name, node) in zip([START, *nodes], nodes.items()):
        graph.add_node(name, node)
        graph.add_edge(last, name)
    graph.add_edge("end", END)
    return graph.compile()
'''


def model_folder(folder: Path, *, seed: int = 0) -> Path:
    """Random weights, far from uniform, with the miniature's tokenizer."""
    words = tokenizer()
    ends = {name: getattr(words, name) for name in ("pad_token_id", "eos_token_id")} | {"bos_token_id": None}
    qwen2(len(words), seed, max_position_embeddings=256, initializer_range=0.15, **ends).save_pretrained(
        folder
    )
    words.save_pretrained(folder)
    return folder


def config(folder: Path, *overrides: str, preset: str = "mask") -> Experiment:
    """Three generations of 4 groups of 6, in two optimizer steps of two micro-batches, with checkpoints.

    Args:
        preset: `mask`, with which agents' tokens and distilled rows are learned here, or another one as it is.
    """
    code = folder / "code.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text(CODE)
    if not (folder / "start").exists():
        model_folder(folder / "start")
    words = [
        f"run.out={folder / 'run'}",
        f"policy={{model: {folder / 'start'}}}",
        f"graph={{name: '{code}:helped'}}",
        f"env.name={code}:Parity",
        "train.tasks_per_step=4",
        "train.group_size=6",
        "train.minibatches=2",
        "train.passes=1",
        "train.gradient_accumulation=2",
        "train.steps=3",
        "train.save_every=1",
        "train.learning_rate=1e-2",
        "rollout.max_tokens=24",
        "run.threads=1",
    ]
    learned = ["method.coefficient=constant", "method.distil_weight=1"] if preset == "mask" else []
    return load_experiment(preset, [*words, *learned, *overrides])


def train(made: Experiment, *, resume: bool = False, evaluate_after: bool = False) -> Path:
    """Trains it; its folder."""
    train_run(made, resume=resume, evaluate_after=evaluate_after, console=Console(quiet=True))
    return made.out
