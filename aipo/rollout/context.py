"""The context of one rollout, which nodes reach through `runtime.context`; it is not part of the state."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from aipo.errors import AgentError, GraphError, PolicyError, ReplayError
from aipo.policies import Policy, SampleRequest, Sampling
from aipo.policies.sample_digests import SampleDigests
from aipo.rollout.agent import Prices
from aipo.rollout.chat.ledger import Ledger
from aipo.rollout.chat.places import current_visit
from aipo.rollout.demonstration import Teacher, demonstrate, demonstration_of, encode
from aipo.rollout.env import Env, Score, Task, judge
from aipo.rollout.spec import derive_seed
from aipo.trace import Call, Mode, Role, Segment, concatenate, of_policy, segment
from aipo.util.http.answers import tokens
from aipo.util.http.reply import THINKING_TAGS, Reply, read_reply
from aipo.util.http.retry import Pause
from aipo.util.text import clean, error_text

_LONGEST_PAUSE = 15.0  # seconds; half of the default `agents.NAME.timeout`, which goes on meanwhile


class Scorer(Protocol):
    """Scores agents' tokens by the agent's own model; for `method.coefficient=ratio`."""

    async def score(
        self, messages: Sequence[Mapping[str, str]], token_ids: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Log-probs (nats) of exactly `token_ids`, the policy's, as the reply to `messages` of a `Call`.

        Raises:
            Exception: they are not to be had this time.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """An agent's LangChain chat model with what a trace records of it.

    Args:
        scorer: None where nobody needs one.
        thinking: the tags around thinking, see `aipo.util.http.reply`.
        pause: until when its server wants to be left alone.
    """

    model: BaseChatModel
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    prices: Prices | None = None
    scorer: Scorer | None = None
    thinking: Mapping[str, str] = field(default_factory=lambda: THINKING_TAGS)
    pause: Pause = field(default_factory=lambda: Pause(_LONGEST_PAUSE), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutContext:
    """Everything that belongs to one rollout. `calls`, `notes`, `reasons`, `samples` and `ledger` grow while it runs.

    Args:
        grant: the probability that a request to an agent is granted; see `grants`.
        abilities: of each policy (γ of item response theory), where they were measured.
        notes: numbers that the graph wants to be recorded and logged, by name.
        reasons: what the environment says of its verdict, by policy.
        demonstration_ids: the demonstration of a rollout with `Mode.EXPERT`; None = the environment's.
        teacher: writes in place of all policies; None = they sample.
        samples: a digest of each sampled segment with the context behind which it was sampled; see `SampleDigests`.
        ledger: the turns of chat models over policies (`aipo.rollout.chat`).
    """

    task: Task
    mode: Mode
    env: Env
    policies: Mapping[str, Policy]
    chats: Mapping[str, ChatModel]
    sampling: Sampling
    seed: int
    forbidden_ids: tuple[int, ...] = ()
    grant: float = 1.0
    abilities: Mapping[str, float] = field(default_factory=dict[str, float])
    session: int | None = None
    demonstration_ids: npt.NDArray[np.int32] | None = None
    teacher: Teacher | None = None
    started: float = field(default_factory=time.perf_counter)
    calls: list[Call] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict[str, float])
    reasons: dict[str, str | None] = field(default_factory=dict[str, str | None])
    samples: SampleDigests = field(default_factory=SampleDigests)
    ledger: Ledger = field(default_factory=Ledger)

    async def sample(
        self,
        segments: Sequence[Segment],
        *,
        policy: str = "policy",
        stop: str | tuple[str, ...] = (),
        source: str = "policy",
        role: Role | None = None,
        turn: object = None,
        max_tokens: int | None = None,
    ) -> tuple[Segment, Literal["stop", "eos", "length"]]:
        """Lets `policy` go on from its context; the random seed depends on the rollout and the turn. In a
        demonstration nobody samples: the segment is the expert's, of role `agent`. Nor does anybody where a teacher
        writes.

        Args:
            role: of the segment; None = who is the author in this mode.
            turn: what the seed depends on besides; None = how many turns the policy has had.
            max_tokens: the most tokens of this turn.

        Raises:
            PolicyError: no such policy, sampling failed, or no token is left of `sampling.max_tokens`.
            TaskError: the environment has no demonstration of the task.
        """
        if policy not in self.policies:
            raise PolicyError(f"policy: got {policy!r}, allowed {sorted(self.policies)}")
        context = of_policy(segments, policy)
        room = self.room(segments, policy=policy)
        if room <= 0:
            raise PolicyError(
                f"tokens left for {policy!r}: got {room} of {self.sampling.max_tokens} (rollout.max_tokens), "
                f"allowed >= 1, in task {self.task.task_id!r}"
            )
        if self.mode is Mode.EXPERT:
            tokenizer, shown = self.policies[policy].tokenizer, self.demonstration_ids
            shown = encode(demonstration_of(self.env, self.task), tokenizer) if shown is None else shown
            return demonstrate(shown, context, policy=policy, room=room, eos_id=tokenizer.eos_id)
        stops = (stop,) if isinstance(stop, str) else stop
        if self.teacher is not None:
            return await self.teacher.write(self, context, policy=policy, stop=stops)
        turn = sum(s.role is Role.POLICY for s in context) if turn is None else turn
        request = SampleRequest(
            concatenate(context),
            max_tokens=min(room, max_tokens or room),
            temperature=self.sampling.temperature,
            stop=stops,
            forbidden_ids=self.forbidden_ids,
            seed=derive_seed(self.seed, policy, turn),
            session=self.seed if self.session is None else self.session,
        )
        done = await self.policies[policy].sample(request)
        piece = segment(
            role or self.mode.author,
            source,
            done.token_ids,
            logprobs=None if self.mode is Mode.TEXT else done.logprobs,
            entropies=done.entropies,
            policy_version=done.policy_version,
            policy=policy,
        )
        if piece.role is Role.POLICY:  # what is not trained need not stand behind its context
            self.samples.add(context, piece)
        return piece, done.finish

    def grants(self, number: int) -> bool:
        """Whether request `number` of the rollout is granted. It depends on `grant` and the rollout's seed alone."""
        return derive_seed(self.seed, "grant", number) < self.grant * 2**63

    def answer(
        self,
        segments: Sequence[Segment],
        *,
        policy: str = "policy",
        read: Callable[[str], str] = str,
    ) -> str:
        """The text that is scored: what the policy itself wrote, so that no agent can earn its reward; or what
        was demonstrated in its stead. Without end tokens.

        Args:
            read: what counts of the text of one segment; `Grammar.without_requests` leaves out requests to agents.
        """
        author = Role.TEACHER if self.teacher else self.mode.author
        tokenizer = self.policies[policy].tokenizer
        token_ids, text, parts = np.empty(0, np.int32), "", list[str]()
        for piece in of_policy(segments, policy):
            if piece.role is author:
                # A tokenizer may decode the beginning of a text otherwise than its middle.
                token_ids = np.concatenate([token_ids, piece.token_ids[piece.token_ids != tokenizer.eos_id]])
                before, text = text, tokenizer.decode(token_ids)
                parts.append(read(text[len(before) :]))
        return "".join(parts)

    def room(self, segments: Sequence[Segment], *, policy: str = "policy") -> int:
        """Tokens that are left of `sampling.max_tokens`; everything after the prompt counts."""
        spent = sum(len(s) for s in of_policy(segments, policy) if s.role is not Role.PROMPT)
        return self.sampling.max_tokens - spent

    async def score(self, text: str, *, policy: str = "policy") -> Score:
        """Reward parts of the answer of `policy`. What the environment says of its verdict goes to the trace.

        Raises:
            GraphError: a demonstration, and nothing of it is in `text`.
            TaskError, ScoreError: see `aipo.rollout.env.Env.score`.
        """
        if self.mode is Mode.EXPERT and not text:
            raise GraphError(
                "text to score of a demonstration: got none, allowed runtime.context.answer(segments)"
            )
        parts, self.reasons[policy] = await judge(self.env, self.task, text)
        return parts

    async def chat(self, agent: str, messages: Sequence[BaseMessage], *, stop: Sequence[str] = ()) -> str:
        """One recorded call of an agent's chat model; returns the reply's text, without its thinking.

        Args:
            stop: texts at which its server is to end the reply.

        Raises:
            AgentError: `agent` has no chat model. What the model itself raises is recorded and passed
                on, for LangGraph's retry policy to judge.
        """
        if agent not in self.chats:
            raise AgentError(f"chat model of agent: got {agent!r}, allowed {sorted(self.chats)}")
        chat = self.chats[agent]
        async with chat.pause:
            return await self._recorded_chat(agent, chat, messages, stop)

    async def _recorded_chat(
        self, agent: str, chat: ChatModel, messages: Sequence[BaseMessage], stop: Sequence[str]
    ) -> str:
        started = time.perf_counter()
        reply: Reply | None = None
        error: str | None = None
        usage: Mapping[str, Any] = {}
        stops: dict[str, Any] = {"stop": list(stop)} if stop else {}
        try:
            answer = await chat.model.ainvoke(list(messages), **stops)
            reply = read_reply(answer, chat.thinking)
            usage = getattr(answer, "usage_metadata", None) or {}
            return reply.text
        except BaseException as caught:
            error = error_text(caught)
            raise
        finally:
            tokens_in, tokens_out = (tokens(usage.get(name)) for name in ("input_tokens", "output_tokens"))
            self.calls.append(
                Call(
                    agent=agent,
                    visit=current_visit(),
                    model=chat.name,
                    messages=tuple({"role": m.type, "content": clean(str(m.text))} for m in messages),
                    reply=reply and reply.text,
                    thinking=reply and reply.thinking,
                    finish=reply and reply.finish,
                    settings=dict(chat.settings),
                    tokens_in=tokens_in,
                    tokens_out=tokens_out,
                    cost=chat.prices.cost(tokens_in, tokens_out) if chat.prices else None,
                    started=started - self.started,
                    seconds=time.perf_counter() - started,
                    error=error,
                )
            )

    async def score_logprobs(
        self, agent: str, text: str, token_ids: Sequence[int], *, since: int = 0
    ) -> tuple[npt.NDArray[np.float32] | None, str | None]:
        """Log-probs, by the agent's own model, of the ids that are about to be inserted for it.

        Args:
            text: theirs. They are known only if it is, word for word, the beginning of what the model wrote last.
            since: how many calls there were before the consult.

        Returns:
            One for each id, NaN where not known; None where nobody needs them. And what went wrong.
        """
        scorer = self.chats[agent].scorer if agent in self.chats else None
        if scorer is None:
            return None, None
        unknown = np.full(len(token_ids), np.nan, np.float32)
        said = [call for call in self.calls[since:] if call.agent == agent and call.reply is not None]
        # What was written behind thinking has the probabilities behind that thinking. A cut may have gone through a
        # character.
        if (
            not said
            or said[-1].thinking is not None
            or not (said[-1].reply or "").strip().startswith(text.strip().rstrip("\ufffd"))
        ):
            return unknown, None
        try:
            return np.asarray(await scorer.score(said[-1].messages, token_ids), np.float32), None
        except ReplayError:
            raise
        except Exception as error:  # an agent's server is anybody's
            return unknown, f"{UNSCORED}{error_text(error)}"


ROLLOUT: ContextVar[RolloutContext] = ContextVar("rollout")
"""The rollout that the running code belongs to, in every task and thread that its graph begins."""
UNSCORED = "log-probs unknown: "
"""How a consult's error begins that says why its reply has none."""
