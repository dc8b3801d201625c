"""The demos: what each one trains, on which tasks, and what a reader has to know."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from aipo.config import presets
from aipo.config.build import load_experiment

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

    @property
    def side_by_side(self) -> int:
        """The most runs at once on this machine."""
        return max(self.at_once, os.cpu_count() or 1)

    @property
    def arms(self) -> list[str]:
        """The presets that can be its arms."""
        own = load_experiment("aipo_distil")
        miniature = {name: load_experiment(name) for name in presets() if _is_of_miniature(name)}
        # Of another preset only the method is taken, so one with a schedule of its own would not be itself.
        return [name for name, one in miniature.items() if self.base is None or one.train == own.train]

    def settings_of(self, arm: str) -> tuple[str, tuple[str, ...]]:
        """Preset and overrides of an arm."""
        return (arm, ()) if self.base is None else (self.base, (f"method={arm}",))


def _is_of_miniature(name: str) -> bool:
    """And of one policy: a comparison has one for each arm."""
    experiment = load_experiment(name)
    return experiment.env_name == _MINIATURE and not experiment.peers


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
DEMOS: dict[str, Demo] = {"miniature": MINIATURE, "smollm2": SMOLLM2}
"""By the name of the model that is trained."""
