"""Two policies of different sizes that learn together, in seconds: random weights, a reward that anybody can get."""

from pathlib import Path

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.train.peers.run import train_peers
from envs.miniature.model import tokenizer
from kit.tiny import qwen2

CODE = '''
import string

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from aipo.errors import PolicyError
from aipo.rollout.graph import RolloutContext, RolloutState
from aipo.trace import Mode, Role, StopReason, of_policy, segment
from envs.miniature import Miniature

LETTERS = tuple(string.ascii_letters)


class Parity(Miniature):
    """Rewards an even number of characters."""

    def score(self, task, text):
        return {"correct": float(len(text) % 2 == 0)}


def talk(policies, fails="", stops=52):
    """Each writes up to one of so many letters, hears the first characters of the others, and goes on. Fails at the task `fails`."""

    async def share(state: RolloutState, runtime: Runtime[RolloutContext]):
        context, pieces = runtime.context, []
        if context.task.task_id == fails:
            raise PolicyError("its server is gone")
        for name in policies:
            ids = context.policies[name].tokenizer.encode_prompt(context.task.prompt)
            asked = segment(Role.PROMPT, "prompt", ids, policy=name)
            pieces += [asked, (await context.sample([asked], policy=name, stop=LETTERS[:int(stops)]))[0]]
        return {"segments": pieces}

    async def fuse(state: RolloutState, runtime: Runtime[RolloutContext]):
        context, segments, pieces, parts = runtime.context, state["segments"], [], {}
        for name in policies:
            tokenizer, own = context.policies[name].tokenizer, of_policy(segments, name)
            heard = [
                segment(Role.AGENT, peer, tokenizer.encode("".join(map(chr, of_policy(segments, peer)[1].token_ids[:2] % 50 + 40))),
                        policy=name)
                for peer in policies if peer != name and context.mode is Mode.ASSISTED
            ]
            if context.room([*own, *heard], policy=name) > 0:
                piece, _ = await context.sample([*own, *heard], policy=name, stop=LETTERS[:int(stops)])
                pieces += [*heard, piece]
            text = context.answer([*own, *pieces], policy=name)
            parts[name] = await context.score(text, policy=name)
        ends = dict.fromkeys(policies, StopReason.EOS)
        return {"segments": pieces, "stops": ends, "reward_parts": parts}

    graph = StateGraph(RolloutState, context_schema=RolloutContext)
    graph.add_node("share", share)
    graph.add_node("fuse", fuse)
    graph.add_edge(START, "share")
    graph.add_edge("share", "fuse")
    graph.add_edge("fuse", END)
    return graph.compile()
'''


def model_folder(folder: Path, *, seed: int, hidden: int) -> Path:
    """Random weights, far from uniform, with the miniature's tokenizer."""
    words = tokenizer()
    ends = {name: getattr(words, name) for name in ("pad_token_id", "eos_token_id")} | {"bos_token_id": None}
    size = {"hidden_size": hidden, "max_position_embeddings": 256, "initializer_range": 0.15}
    qwen2(len(words), seed, **size, **ends).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def config(folder: Path, *overrides: str) -> Experiment:
    """Three generations of 4 groups of 6, in two optimizer steps, with checkpoints; `left` is smaller than `right`."""
    code = folder / "code.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text(CODE)
    for seed, (name, hidden) in enumerate({"left": 16, "right": 24}.items()):
        if not (folder / name).exists():
            model_folder(folder / name, seed=seed, hidden=hidden)
    words = [
        f"run.out={folder / 'run'}",
        f"policy={{model: {folder / 'left'}}}",
        f"policies={{left: {{}}, right: {{model: {folder / 'right'}, learning_rate: 5e-3}}}}",
        f"graph={{name: '{code}:talk'}}",
        f"env.name={code}:Parity",
        "agents={}",
        "method.credit=calibrated",
        "method.assist_share=0.5",
        "train.tasks_per_step=4",
        "train.group_size=6",
        "train.minibatches=2",
        "train.passes=1",
        "train.gradient_accumulation=1",
        "train.steps=3",
        "train.save_every=1",
        "train.learning_rate=1e-2",
        "rollout.max_tokens=24",
        "run.threads=1",
        "evaluate={splits: [easy], samples: 2, ks: [1], settings: [solo]}",
    ]
    return load_experiment("grpo", [*words, *overrides])


def train(made: Experiment, *, resume: bool = False, evaluate_after: bool = False) -> Path:
    """Trains it; its folder."""
    train_peers(made, resume=resume, evaluate_after=evaluate_after, console=Console(quiet=True))
    return made.out
