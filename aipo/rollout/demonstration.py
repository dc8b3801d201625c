"""Demonstrations: correct solutions from the environment, in place of sampled rollouts.

It is a rollout like any other, through the same graph, but for the policy's turn: there it has one segment of
role `agent` and source `expert`. It is scored by the same reward, and what the trainer makes of its tokens is
what it makes of any agent's.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aipo.errors import ConfigError, PolicyError, TaskError, one_of
from aipo.policies import Tokenizer
from aipo.rollout.agent import ChatSettings
from aipo.rollout.env import Env, Task
from aipo.trace import Role, Segment, segment
from aipo.util.section import Count, Positive, Section, Share

if TYPE_CHECKING:
    from aipo.rollout.context import RolloutContext

EXPERT = "expert"
"""Source of a demonstration's segment."""
ENV = "env"
"""The teacher that is the environment."""
TEACHER = "teacher"
"""The name under which a teacher's chat model is called and recorded."""
INSTRUCTION = """\
You show a small language model how to consult agents. You write its answer to the user's message, exactly as that message \
asks for it, one turn at a time. To ask an agent, write its tag, a short request and the closing tag, and end your turn \
there. The reply comes in the next message. Then go on where you stopped, without repeating anything. Never write a reply \
or a feedback tag yourself. Ask at least once."""


class DemonstratedEnv(Env, Protocol):
    """An environment that has solutions of its tasks."""

    def demonstration(self, task: Task) -> str | None:
        """A right solution, as the policy itself would write it without agents; None where there is none."""
        ...


class TeachingEnv(Env, Protocol):
    """An environment that shows how agents are asked: the teacher `env` of `aipo warmup`."""

    def turn(self, task: Task, written: str) -> str:
        """The policy's next text, with agents at hand, without an end token.

        It ends with the graph's closing tag, `</consult>`, where it asks an agent; else it is the rest of the answer. It is
        called again with the reply in `written`, or with a notice where no agent answered.

        Args:
            written: all text after the prompt so far: the policy's, agents' replies in `<feedback:NAME>...</feedback>`,
                and notices in `<notice>...</notice>`.
        """
        ...


class TeacherSettings(ChatSettings):
    """Who writes demonstrations of consulting."""

    model: str | None = Field(
        "env",
        description="`env`: the environment's `turn` with agents, its `demonstration` without; or a LangChain chat model",
    )
    stop: bool = Field(
        True,
        description="send stop texts to the chat model; false where its server takes none: its text is cut",
    )
    instruction: str = Field(
        INSTRUCTION, description="system message of a chat model that may consult agents"
    )

    @model_validator(mode="after")
    def _env_takes_nothing(self) -> Self:
        if self.model in (None, ENV) and (self.options or self.secrets or self.prices):
            raise ValueError(
                f"teacher: got options, secrets or prices with model {self.model!r}, allowed with a chat model"
            )
        if self.model is None:
            raise ValueError("teacher.model: got null, allowed env or a chat model, 'module:callable'")
        return self


class WarmupSettings(Section):
    """`aipo warmup`: demonstrations of consulting, and supervised training on them."""

    teacher: TeacherSettings = TeacherSettings()  # pyright: ignore[reportCallIssue]
    steps: Count = Field(10, description="rollout steps, each with new demonstrations")
    demonstrations: Count = Field(64, description="demonstrations of each step")
    passes: Count = Field(1, description="passes over the demonstrations of a step")
    batch: Count = Field(16, description="demonstrations per optimizer step")
    learning_rate: Positive = Field(2e-5, description="peak; it rises over a tenth, falls over the last half")
    mixture: dict[str, float] | None = Field(
        None, description="share of each split in demonstrations with agents; default: env.mixture"
    )
    solo_mixture: dict[str, float] | None = Field(
        None, description="share of each split in demonstrations without agents; default: as `mixture`"
    )
    assist_share: Share = Field(0.8, description="share of the demonstrations that have agents")
    probes: Count = Field(64, description="training tasks that are held out to see whether the policy asks")
    graph_tags: tuple[str, ...] = Field(
        ("<feedback:{agent}>", "</feedback>", "<notice>", "</notice>"),
        description="tags that only the graph writes: a teacher's text is cut in front of them",
    )

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.batch > self.demonstrations:
            raise ValueError(f"batch: got {self.batch}, allowed at most demonstrations={self.demonstrations}")
        return self


class Teacher(Protocol):
    """Writes in the policy's place; see `aipo.warmup`."""

    async def write(
        self, context: "RolloutContext", segments: Sequence[Segment], *, policy: str, stop: tuple[str, ...]
    ) -> tuple[Segment, Literal["stop", "eos", "length"]]:
        """The policy's next segment behind `segments`, its context, with the role `teacher`. It ends as a sampled one does:
        with one of the texts `stop`, with the end token, or where no room is left.

        Raises:
            TaskError: the teacher has nothing to write.
            Exception: its chat model fails.
        """
        ...


def demonstration_of(env: Env, task: Task) -> str:
    """The demonstration of `task`.

    Raises:
        TaskError: there is none.
    """
    show = getattr(env, "demonstration", None)
    if text := None if show is None else show(task):
        return text
    what, where = f"demonstration of task {task.task_id!r}", f"environment {type(env).__name__}"
    raise TaskError(one_of(what, text, "text of a right solution", where))


def check_demonstrations(env: Env, mixture: Mapping[str, float]) -> None:
    """Refuses an environment that cannot show how every task that may be drawn is solved.

    Args:
        mixture: share of each split.

    Raises:
        ConfigError: it has no demonstrations at all.
        TaskError: a task has none.
    """
    if not hasattr(env, "demonstration"):
        raise ConfigError(
            f"method.plan: got expert with environment {type(env).__name__}, which has no demonstrations, allowed "
            "independent, or an environment with a method `demonstration` (aipo.rollout.demonstration.DemonstratedEnv)"
        )
    for split, share in mixture.items():
        for task in env.tasks(split) if share > 0 else ():
            demonstration_of(env, task)


def encode(text: str, tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """Ids of a demonstration: plain text, whatever it spells, and the end token."""
    return np.array([*tokenizer.encode(text), tokenizer.eos_id], np.int32)


def demonstrate(
    token_ids: npt.NDArray[np.int32], context: Sequence[Segment], *, policy: str, room: int, eos_id: int
) -> tuple[Segment, Literal["eos", "length"]]:
    """The policy's turn in a demonstration, cut off after `room` tokens, where a sampled one would be.

    Raises:
        PolicyError: the graph lets the policy go on after its end.
    """
    if any(s.role is Role.AGENT for s in context):
        allowed = "one, that ends with the end token"
        raise PolicyError(one_of("turns of a demonstration", 2, allowed, "this graph"))
    piece = segment(Role.AGENT, EXPERT, token_ids[:room], policy=policy)
    return piece, "eos" if piece.token_ids[-1] == eos_id else "length"
