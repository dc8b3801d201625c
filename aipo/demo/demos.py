"""The demos: what each one trains, on which tasks, and what a reader has to know."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aipo.compare.sections import ArmSection
from aipo.config import presets
from aipo.config.build import load_experiment
from aipo.errors import ConfigError

_MINIATURE = "envs.miniature:Miniature"
Cell = tuple[str, str, str]
"""A row of the last table: label, split and setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One demo.

    Args:
        base: the preset whose task and policy all arms take, each with the method of the preset of its own name; None: an
            arm is that preset itself.
        plan: overrides of every arm.
        default: arms that are compared unless others are named.
        aim: its first line on the terminal.
        title: of the report.
        story: the task and the question, for a reader who knows neither.
        splits: what the evaluated splits hold, for a reader.
        table: the rows of the last table, pass@1.
        first: what is made before anything else: name, seconds on idle cores, and what it is.
        before_s, arm_s: seconds of the evaluation before, and of one arm.
        at_once: runs side by side on a machine with fewer cores.
        policy: of an arm whose policies learn together, the one whose results count.
        alone: overrides of arms that train this policy by itself.
    """

    base: str | None
    plan: tuple[str, ...]
    default: tuple[str, ...]
    aim: str
    title: str
    story: tuple[str, ...]
    splits: Mapping[str, str]
    table: tuple[Cell, ...]
    first: tuple[str, int, str]
    before_s: int
    arm_s: int
    at_once: int
    policy: str | None = None
    alone: tuple[str, ...] = ()

    @property
    def side_by_side(self) -> int:
        """The most runs at once on this machine."""
        return max(self.at_once, os.cpu_count() or 1)

    @property
    def arms(self) -> list[str]:
        """The presets that can be its arms."""
        own = load_experiment("aipo_distil")
        loaded = {name: load_experiment(name) for name in presets()}
        miniature = {name: one for name, one in loaded.items() if one.env_name == _MINIATURE}
        # Of another preset only the method is taken, so one with a schedule of its own would not be itself.
        return [name for name, one in miniature.items() if self.base is None or one.train == own.train]

    def section_of(self, arm: str) -> ArmSection:
        """Preset, overrides and policy of an arm."""
        if self.base is not None:
            return ArmSection(config=self.base, set=(f"method={arm}",))  # pyright: ignore[reportCallIssue]
        if load_experiment(arm).peers:
            return ArmSection(config=arm, policy=self.policy)  # pyright: ignore[reportCallIssue]
        return ArmSection(config=arm, set=self.alone)  # pyright: ignore[reportCallIssue]


# Runs side by side: more threads than one each would only fight over the cores.
_ONE_THREAD = "run.threads=1"

MINIATURE = Demo(
    base=None,
    # Fewer facts, sums without a carry, fewer rollout steps and samples than the presets have, and three passes over the
    # rows of a step, which cost less than the rollouts that they replace.
    plan=(
        _ONE_THREAD,
        "policy.options={course: quick, steps: 1500, batch: 16, size: 4, carry: false}",
        "env.options={size: 4, carry: false}",
        "agents.knowledge.options={size: 4, carry: false}",
        "env.mixture={easy_train: 0.3, hard: 0.3, shortcut_train: 0.15, nines_train: 0.25}",
        "train.steps=50",
        "train.passes=3",
        "train.learning_rate=3e-4",
        "evaluate.splits=[heldout, shortcut, nines, easy]",
        "evaluate.samples=2",
        "evaluate.ks=[1, 2]",
    ),
    default=("aipo_distil", "aipo", "grpo"),
    aim="a small language model learns from agents to do without them",
    title="AIPO on the miniature: trained with agents, measured without",
    story=(
        "The task. An expression is worked out line by line, and the last line is the answer. 3@7 is a value of an arbitrary "
        "table: it must be known, and a guess is right once in 440. The right text for 3@7+20=? is, say,\n"
        "    3@7=532\n    532+20=552\n    #552",
        "What the policy lacks. It has never seen 16 of the 40 values. It takes 100 for 99 and forgets to give 1 back "
        "(523-99=423). It was never told what ~582 is: 417, every digit's difference to 9. While it trains, three agents can help, "
        "each with one of these: Knowledge has the table, Verify corrects a line, Reasoning gives the next line.",
        "The question. Does the policy solve such tasks without agents afterwards? It is evaluated on tasks on which no arm was "
        "trained.",
    ),
    splits={
        "heldout": "Unknown facts (Knowledge can help)",
        "shortcut": "Subtractions of 99 (Verify can help)",
        "nines": "Nines' complements (Reasoning can help)",
        "easy": "Known facts and sums",
    },
    table=(
        ("unknown facts", "heldout", "solo"),
        ("unknown facts, consult tags suppressed", "heldout", "suppressed"),
        ("subtractions of 99", "shortcut", "solo"),
        ("nines' complements", "nines", "solo"),
        ("known facts and sums", "easy", "solo"),
        ("with agents: unknown facts", "heldout", "assisted"),
        ("with agents: subtractions of 99", "shortcut", "assisted"),
        ("with agents: nines' complements", "nines", "assisted"),
    ),
    first=("cold start", 30, "supervised, from random weights: sums, and how to ask agents"),
    before_s=15,
    arm_s=70,
    at_once=4,  # no core is idle while the last one runs
)
SMOLLM2 = Demo(
    base="smollm2",
    plan=(_ONE_THREAD, "train.steps=25", "evaluate.samples=2", "evaluate.ks=[1, 2]"),
    default=("aipo_distil", "grpo"),  # an hour is too short for three
    aim="a real language model of 135 million parameters learns from agents to do without them",
    title="AIPO on SmolLM2-135M-Instruct: trained with agents, measured without",
    story=(
        "The task. Questions in English about an invented almanac are answered line by line, and the last line is the answer. "
        "The right text for `How many steps has the lighthouse of Tormar with 3 more?` is, say,\n"
        "    Tormar has 582 steps.\n    582 + 3 = 585\n    Answer: 585",
        "What the policy lacks. It has never seen 16 of the entries, adds with a carry badly, and does not know the rules of the "
        "almanac. While it trains, three agents can help, each with one of these: Knowledge has the entries, Verify corrects a "
        "sum, Reasoning gives the next line.",
        "The warm-up. A real model does not ask by itself. First it learns from demonstrations how to ask and how to use a "
        "reply, on entries that are asked for nowhere else.",
        "The question. Does the policy answer without agents afterwards? It is evaluated on questions on which no arm was "
        "trained, some of them in words that no training question has.",
    ),
    splits={
        "facts": "Unknown entries (Knowledge can help)",
        "facts_reworded": "The same in other words",
        "easy": "Known entries and simple sums",
    },
    table=(
        ("unknown entries", "facts", "solo"),
        ("unknown entries, in other words", "facts_reworded", "solo"),
        ("known entries and simple sums", "easy", "solo"),
        ("with agents: unknown entries", "facts", "assisted"),
    ),
    first=("warm-up", 480, "the model learns from demonstrations to ask agents"),
    before_s=240,
    arm_s=1500,
    at_once=2,  # each takes 5 GB
)
PEERS = Demo(
    base=None,
    plan=(
        _ONE_THREAD,
        "train.steps=40",
        "evaluate.splits=[heldout, easy]",
        "evaluate.settings=[solo]",
        "evaluate.samples=2",
        "evaluate.ks=[1, 2]",
    ),
    default=("ilr_distil", "ilr", "grpo"),
    aim="two small language models discuss while they learn, and are asked alone afterwards",
    title="ILR on the miniature: trained together, measured alone",
    story=(
        "The task. An expression is worked out line by line, and the last line is the answer. 3@7 is a value of an arbitrary "
        "table: it must be known, and a guess is right once in a thousand. The right text for 3@7+20=? is, say,\n"
        "    3@7=582\n    582+20=602\n    #602",
        "What the policies lack. Of 40 values that are unknown to most policies of the miniature, each of two policies knows 20, "
        "and the other knows the other 20. In half of the rollouts each writes its solution, reads the other's and answers again.",
        "The question. Does the left one solve such tasks alone afterwards, and better than if it had trained by itself? It is "
        "evaluated on tasks on which no arm was trained. A rollout in which both discuss samples two answers of each.",
    ),
    splits={"heldout": "Facts of which the left policy knows half", "easy": "Known facts and sums"},
    table=(
        ("facts of which it knows half", "heldout", "solo"),
        ("known facts and sums", "easy", "solo"),
    ),
    first=("cold start", 150, "supervised, of both policies: sums, and what to do with another's solution"),
    before_s=15,
    arm_s=150,
    at_once=2,
    policy="left",
    alone=("policy.model=envs.miniature.peers:peer", "policy.options={side: left}"),
)
DEMOS: dict[str, Demo] = {"miniature": MINIATURE, "smollm2": SMOLLM2}
"""By the name of the model that is trained."""


def demo_of(model: str, arms: Sequence[str] | None) -> Demo:
    """The demo of a model. Where policies of the miniature learn together in an arm, all arms train one of these.

    Raises:
        ConfigError: no such demo, or `arms` are not its presets, each named once.
    """
    if model not in DEMOS:
        raise ConfigError(f"--model: got {model!r}, allowed one of {', '.join(DEMOS)}")
    demo = DEMOS[model]
    allowed = demo.arms if arms is not None else demo.default
    arms = demo.default if arms is None else arms
    if not arms or len(set(arms)) < len(arms) or not set(arms) <= set(allowed):
        raise ConfigError(f"--arms: got {','.join(arms)!r}, allowed some of {','.join(allowed)}, each once")
    return PEERS if demo.base is None and any(load_experiment(arm).peers for arm in arms) else demo
