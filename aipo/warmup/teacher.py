"""Teachers: who writes in the policy's place, the environment or a chat model.

What a teacher writes becomes the policy's tokens: the tags of a request are the ids that the policy itself would sample.
Replies come from the graph's agents alone: where a teacher writes one, its text is cut.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from aipo.config.build import Experiment
from aipo.config.build_settings import tags_of_agents
from aipo.errors import ConfigError, TaskError, one_of
from aipo.policies import Tokenizer
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.demonstration import ENV, TEACHER, TeacherSettings, demonstration_of
from aipo.rollout.env import Env
from aipo.trace import Mode, Role, Segment, concatenate, segment
from aipo.util.http.retry import retry, transient

_LONGEST_WAIT = 5.0
"""Seconds between two attempts."""


@dataclass(frozen=True, kw_only=True)
class TurnTags:
    """The tags in a turn.

    Args:
        requests: opening tags of requests to each agent.
        heads: what opening tags begin with, whichever name follows.
        graph_only: tags that only the graph writes.
    """

    requests: tuple[str, ...]
    heads: tuple[str, ...]
    graph_only: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> "TurnTags":
        """The tags of an experiment's agents."""
        theirs = experiment.warmup.graph_tags
        opening = [tag for tag in experiment.rollout.suppress_tags if tag not in theirs]
        requests, graph_only = (tags_of_agents(tags, experiment.agents) for tags in (opening, theirs))
        heads = tuple(tag.partition("{agent}")[0] for tag in opening)
        return cls(requests=tuple(requests), heads=heads, graph_only=tuple(dict.fromkeys(graph_only)))

    def cut(self, text: str, stop: Sequence[str], *, whole: bool) -> tuple[str, bool]:
        """A turn up to its first request or to the first tag that is not its own; and whether it asks.

        Args:
            stop: closing tags of a request; a chat model's server leaves the one out at which it stopped.
            whole: the text is not cut by a limit on its tokens.
        """
        ends = [text.find(tag) + len(tag) for tag in stop if tag in text]
        text = text[: min(ends, default=len(text))]
        text = text[: min([text.find(tag) for tag in self.graph_only if tag in text], default=len(text))]
        asks = any(map(text.endswith, stop))
        if not asks and stop and whole and any(head in text for head in self.heads):
            return text + stop[0], True
        return text, asks

    def encode(self, text: str, stop: Sequence[str], tokenizer: Tokenizer) -> list[int]:
        """Ids of a turn: its tags as the policy writes them where they are one token, everything else as plain text."""
        tags = [tag for tag in (*self.requests, *stop) if tokenizer.token_id(tag) is not None] if stop else []
        if not tags:
            return tokenizer.encode(text)
        parts = re.split(f"({'|'.join(map(re.escape, tags))})", text)
        coded = (tokenizer.encode(part, control=bool(n % 2)) for n, part in enumerate(parts) if part)
        return [token_id for ids in coded for token_id in ids]


@dataclass(frozen=True, kw_only=True)
class EnvTeacher:
    """The environment's `turn` where there are agents, its `demonstration` where there are none."""

    tags: TurnTags

    async def write(
        self, context: RolloutContext, segments: Sequence[Segment], *, policy: str, stop: tuple[str, ...]
    ) -> tuple[Segment, Literal["stop", "eos", "length"]]:
        """See `aipo.rollout.demonstration.Teacher`."""
        tokenizer, env = context.policies[policy].tokenizer, context.env
        if context.mode is Mode.ASSISTED:
            written = tokenizer.decode(concatenate(s for s in segments if s.role is not Role.PROMPT))
            turn: Any = env
            text = turn.turn(context.task, written)
        else:
            text = demonstration_of(env, context.task)
        return _segment(self.tags, text, context, segments, ENV, policy, stop, whole=False)


@dataclass(frozen=True, kw_only=True)
class ChatTeacher:
    """A chat model that reads what the policy reads: the prompt as the user's message, its own turns as the assistant's,
    and agents' replies as the user's."""

    tags: TurnTags
    chat: ChatModel
    settings: TeacherSettings

    async def write(
        self, context: RolloutContext, segments: Sequence[Segment], *, policy: str, stop: tuple[str, ...]
    ) -> tuple[Segment, Literal["stop", "eos", "length"]]:
        """See `aipo.rollout.demonstration.Teacher`."""
        messages = [*self._messages(context, segments, policy)]
        stops = stop if self.settings.stop else ()
        waits = [min(0.5 * 2**n, _LONGEST_WAIT) for n in range(self.settings.attempts - 1)]
        text = await retry(lambda: self._ask(context, messages, stops), when=transient, waits=waits)
        whole = not context.calls[-1].cut
        return _segment(self.tags, text, context, segments, self.chat.name, policy, stop, whole=whole)

    async def _ask(self, context: RolloutContext, messages: list[BaseMessage], stop: Sequence[str]) -> str:
        async with asyncio.timeout(self.settings.timeout):
            return await context.chat(TEACHER, messages, stop=stop)

    def _messages(
        self, context: RolloutContext, segments: Sequence[Segment], policy: str
    ) -> Iterator[BaseMessage]:
        tokenizer: Any = context.policies[policy].tokenizer
        if context.mode is Mode.ASSISTED:
            yield SystemMessage(self.settings.instruction)
        before, after = tokenizer.frame
        for piece in segments:
            text = tokenizer.decode(piece.token_ids)
            if piece.role is Role.TEACHER:
                yield AIMessage(text)
            else:
                yield HumanMessage(text.removeprefix(before).removesuffix(after))


def _segment(
    tags: TurnTags,
    text: object,
    context: RolloutContext,
    segments: Sequence[Segment],
    source: str,
    policy: str,
    stop: tuple[str, ...],
    *,
    whole: bool,
) -> tuple[Segment, Literal["stop", "eos", "length"]]:
    """A teacher's turn as the policy's next segment."""
    where = f"the teacher {source}, task {context.task.task_id!r}"
    if not isinstance(text, str) or not text.strip():
        raise TaskError(one_of("next text", text, "text that is not empty", where))
    said, asks = tags.cut(text, stop, whole=whole)
    tokenizer = context.policies[policy].tokenizer
    token_ids = tags.encode(said, stop, tokenizer)
    token_ids += [] if asks else [tokenizer.eos_id]
    room = context.room(segments, policy=policy)
    piece = segment(Role.TEACHER, source, token_ids[:room], policy=policy)
    return piece, "length" if len(token_ids) > room else "stop" if asks else "eos"


def build_teacher(experiment: Experiment) -> EnvTeacher | ChatTeacher:
    """The configured teacher.

    Raises:
        ConfigError: it cannot teach this; says why.
        LoadError: its chat model cannot be imported, or a secret is not set.
    """
    settings, tags = experiment.warmup.teacher, TurnTags.of(experiment)
    if TEACHER in experiment.agents:
        raise ConfigError(f"agents.{TEACHER}: got an agent of the teacher's name, allowed another name")
    if experiment.warmup.assist_share > 0 and not experiment.agents:
        raise ConfigError("agents: got none, allowed at least one that the teacher can ask")
    if settings.model == ENV:
        _check_env(experiment.env, experiment.env_name, experiment.warmup.assist_share)
        return EnvTeacher(tags=tags)
    _check_prompts(experiment, tags)
    chat = experiment.any_chat("warmup.teacher", settings)
    assert chat is not None  # it has a model
    return ChatTeacher(tags=tags, chat=chat, settings=settings)


def _check_env(env: Env, name: str, assist_share: float) -> None:
    needed = [
        *(["turn"] if assist_share > 0 else []),
        *(["demonstration"] if assist_share < 1 else []),
    ]
    if missing := [method for method in needed if not callable(getattr(env, method, None))]:
        raise ConfigError(
            f"warmup.teacher.model: got {ENV} with environment {name}, which has no method {' and no '.join(missing)}, "
            "allowed an environment that has (aipo.rollout.demonstration.TeachingEnv, DemonstratedEnv), or a chat model"
        )


def _check_prompts(experiment: Experiment, tags: TurnTags) -> None:
    """A chat model knows no tag that nobody tells it."""
    files = [file for name, file in experiment.graphs.files.items() if name.startswith("prompts.")]
    texts = [experiment.warmup.teacher.instruction, *(file.read_text(encoding="utf-8") for file in files)]
    if tags.requests and not any(head in text for head in tags.heads for text in texts):
        raise ConfigError(
            f"warmup.teacher.model: got {experiment.warmup.teacher.model}, and no prompt that shows {tags.requests[0]}, "
            "allowed a prompt (graph.options.prompt) or warmup.teacher.instruction that says how agents are asked"
        )
