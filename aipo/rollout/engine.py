"""The rollout engine: specs in, traces out.

Every rollout is one run of a compiled graph. The last state of the root graph is the trace so far, also
when a node raises or the deadline strikes. A failure is data: it ends one rollout, is recorded on its
trace and never touches its siblings.
"""

import asyncio
import atexit
import gc
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from aipo.errors import ConfigError, ScoreError, TaskError
from aipo.policies import Policy, Sampling
from aipo.rollout.branching.checkpoints import ForkSaver
from aipo.rollout.branching.waves import Grow, OnTrace, RolloutResult, report_all, run_in_waves
from aipo.rollout.context import ROLLOUT, ChatModel, RolloutContext
from aipo.rollout.env import Env, Task
from aipo.rollout.graph import check_graph
from aipo.rollout.recorder import Ending, RolloutRecorder, require
from aipo.rollout.spec import RolloutSpec
from aipo.trace import StopReason, Trace
from aipo.util.event_loop import LOOP, as_exception, is_interrupt
from aipo.util.text import error_text

Rollout = Callable[[RolloutSpec, OnTrace], Awaitable[RolloutResult]]
Progress = Callable[[int, int], object]
"""Called with how many rollouts have ended, and of how many."""
Adapt = Callable[[RolloutSpec, RolloutContext], RolloutContext]


def freeze_gc() -> None:
    """Takes everything that exists by now out of the garbage collector's sight.

    A rollout makes thousands of small objects, and each full collection would walk through all that the
    libraries made at import: a third of the time of a rollout phase on the miniature. To be called
    once, when everything is built.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or extension modules take what is left at the end for a leak, and say so


@dataclass(frozen=True, kw_only=True)
class RolloutEngine:
    """Runs rollouts concurrently.

    Args:
        policies: by the name that the graph uses.
        chats: chat models of the agents, by the name that the graph uses.
        reward_weights: weight of each reward part; a part without a weight fails its rollout.
        deadline: seconds that one rollout may take.
        concurrency: the most rollouts in flight.
        fingerprints: of graph and prompts, copied to every trace.
        forbidden_ids: ids that are masked where a spec forbids.
        refuse_control: a rollout whose question spells control tokens fails; else they are plain text to the policy.
        recursion_limit: LangGraph's limit of super-steps, a guard against a graph that never ends.
        adapt: gives a rollout a context of its own: policies and chat models that answer for it alone.
        elsewhere: does what `rollout` does, in another process (`aipo.rollout.workers.pool`); None = rollouts run here.

    Raises:
        GraphError: the graph breaks the contract.
        ConfigError: no policy, a concurrency, deadline or weight that is out of range, or a context that
            cannot be taken elsewhere; a tokenizer without a length.
    """

    graph: CompiledStateGraph[Any, Any, Any, Any]
    env: Env
    policies: Mapping[str, Policy]
    chats: Mapping[str, ChatModel]
    sampling: Sampling
    reward_weights: Mapping[str, float]
    deadline: float
    concurrency: int
    run_id: str
    fingerprints: Mapping[str, str]
    forbidden_ids: tuple[int, ...] = ()
    refuse_control: bool = False
    recursion_limit: int = 10_000
    adapt: Adapt | None = None
    elsewhere: Rollout | None = None

    def __post_init__(self) -> None:
        check_graph(self.graph, str(getattr(self.graph, "name", None)))
        rules = [
            (bool(self.policies), "policies", {}, "at least one"),
            (self.concurrency >= 1, "concurrency", self.concurrency, ">= 1"),
            (self.deadline > 0, "deadline", self.deadline, "> 0 seconds"),
            (not (self.adapt and self.elsewhere), "adapt", self.adapt, "None with worker processes"),
            *(
                (
                    hasattr(kind, "__len__"),
                    f"tokenizer of policy {name!r}",
                    kind,
                    "one with a number of ids, __len__",
                )
                for name, policy in self.policies.items()
                for kind in [type(policy.tokenizer)]
            ),
            *(
                (math.isfinite(weight), f"weight of reward part {name!r}", weight, "a finite number")
                for name, weight in self.reward_weights.items()
            ),
        ]
        require("the rollout engine", *rules, error=ConfigError)

    def run_sync(
        self,
        specs: Sequence[RolloutSpec],
        on_trace: OnTrace,
        progress: Progress = lambda done, total: None,
        grow: Grow | None = None,
    ) -> list[Trace]:
        """`run`, for code that is not async. Ctrl-C hands over what is in flight, then interrupts."""
        return LOOP.run(self.run(specs, on_trace, progress, grow))

    async def run(
        self,
        specs: Sequence[RolloutSpec],
        on_trace: OnTrace,
        progress: Progress = lambda done, total: None,
        grow: Grow | None = None,
    ) -> list[Trace]:
        """Runs every spec, at most `concurrency` at a time.

        Args:
            on_trace: called with each trace as its rollout ends, failed ones too. If it raises (a full
                disk), the run stops and the error passes on. When the run stops early, rollouts in
                flight end as cancelled traces, which are handed over as well.
            progress: called at the beginning, and as each rollout ends.
            grow: which rollouts a group gets next, once all that it has have ended; None = groups do not grow.

        Returns:
            Traces in the order of `specs`, or of groups that grow; one for each policy that the graph ran.
        """
        slots, begun, ended = asyncio.Semaphore(self.concurrency), 0, 0
        rollout = self.elsewhere or self.rollout
        progress(ended, len(specs))

        async def run_one(spec: RolloutSpec) -> RolloutResult:
            nonlocal begun, ended
            begun += 1
            async with slots:
                result = await rollout(spec, on_trace)
            ended += 1
            progress(ended, max(begun, len(specs)))
            return result

        return await run_in_waves(specs, run_one, grow)

    async def rollout(self, spec: RolloutSpec, on_trace: OnTrace) -> RolloutResult:
        """One rollout, in this process; see `run`. Cancelled, it hands over what it has, and is cancelled."""
        began = time.time()
        context = self._context(spec)
        record = RolloutRecorder(context.started, context.ledger)
        deadline = asyncio.timeout(self.deadline)
        interrupt: BaseException | None = None
        forks = ForkSaver(spec.start, record, context.samples) if spec.forkable else None
        try:
            async with deadline:
                self._check_question(spec.task)
                await self._follow(context, record, forks)
            endings = record.endings(context, self.reward_weights)
            if forks:
                forks.check()
        except BaseException as error:  # the one place where what went wrong becomes data
            interrupt = error if is_interrupt(error) else None
            failure = self._failure(interrupt or as_exception(error), record, late=deadline.expired())
            seen = [name for name in context.policies if record.segments(name)]
            endings = dict.fromkeys(seen or list(context.policies)[:1], failure)
        finally:
            context.ledger.sync.close()
        traces = self._traces(spec, began, context, record, endings)
        report_all(traces, on_trace)
        if interrupt is not None:
            raise interrupt
        return RolloutResult(traces, forks.starts(traces[0]) if forks else {})

    def lost(self, spec: RolloutSpec, stop: StopReason, error: str) -> list[Trace]:
        """A failed trace that holds only the error."""
        context = self._context(spec)
        endings = {next(iter(context.policies)): Ending(stop, error=error)}
        return self._traces(spec, time.time(), context, RolloutRecorder(context.started), endings)

    def _context(self, spec: RolloutSpec) -> RolloutContext:
        context = RolloutContext(
            task=spec.task,
            mode=spec.mode,
            env=self.env,
            policies=self.policies,
            chats=self.chats,
            sampling=self.sampling,
            seed=spec.seed,
            forbidden_ids=self.forbidden_ids if spec.suppress else (),
            grant=spec.grant,
            abilities=spec.abilities,
            session=spec.session,
        )
        return context if self.adapt is None else self.adapt(spec, context)

    def _check_question(self, task: Task) -> None:
        for policy in self.policies.values() if self.refuse_control else ():
            if spelled := policy.tokenizer.control_in(task.prompt):
                raise TaskError(
                    f"prompt of task {task.task_id!r}: got the control tokens {spelled}, allowed none "
                    "(rollout.control_tokens=refuse)"
                )

    async def _follow(
        self, context: RolloutContext, record: RolloutRecorder, forks: ForkSaver | None
    ) -> None:
        ROLLOUT.set(context)
        context.ledger.sync.loop = asyncio.get_running_loop()
        graph = forks.watched(self.graph) if forks else self.graph
        config: RunnableConfig = {"recursion_limit": self.recursion_limit}
        config |= forks.config if forks else {}
        start = {"segments": [], "consults": [], "stops": {}, "reward_parts": {}}
        # Typed for one stream mode; two of them with sub-graphs yield triples.
        stream: Any = graph.astream(
            None if forks and forks.goes_on else start,
            context=context,
            config=config,
            stream_mode=["values", "tasks"],
            subgraphs=True,
            durability="sync" if forks else None,
        )
        async with aclosing(stream):
            async for namespace, kind, data in stream:
                record.take(namespace, kind, data)

    def _failure(self, error: BaseException, record: RolloutRecorder, *, late: bool) -> Ending:
        if not isinstance(error, Exception):
            return Ending(StopReason.CANCELLED, error=f"Cancelled: the run was stopped{record.open_at()}")
        if late:
            text = f"Deadline: not done after {self.deadline:g} seconds (rollout.deadline){record.open_at()}"
            return Ending(StopReason.DEADLINE, error=text)
        stop = StopReason.UNSCORED if isinstance(error, ScoreError) else StopReason.ERROR
        return Ending(stop, error=error_text(error) + record.raised_at(error))

    def _traces(
        self,
        spec: RolloutSpec,
        began: float,
        context: RolloutContext,
        record: RolloutRecorder,
        endings: Mapping[str, Ending],
    ) -> list[Trace]:
        identity = f"{self.run_id}/{spec.group_id}/{spec.index}"
        visits = record.visits(context.calls)
        traces: list[Trace] = []
        for policy, ending in endings.items():
            segments = record.segments(policy)
            versions = [s.policy_version for s in segments if s.policy_version is not None]
            trace = Trace(
                trace_id=identity if len(endings) == 1 else f"{identity}/{policy}",
                run_id=self.run_id,
                group_id=spec.group_id,
                task_id=spec.task.task_id,
                step=spec.step,
                index=spec.index,
                mode=spec.mode,
                policy=policy,
                task=asdict(spec.task),
                seed=spec.seed,
                parent_id=spec.fork and spec.fork.parent_id,
                fork_token=spec.fork and spec.fork.token,
                sampling=_sampling(context, policy),
                forbidden_ids=context.forbidden_ids,
                segments=segments,
                consults=record.consults(policy),
                visits=visits,
                policy_version=min(versions, default=None),
                fingerprints=dict(self.fingerprints),
                started=began,
                seconds=time.perf_counter() - context.started,
                **asdict(ending),
            )
            traces.append(trace.writable())
        return traces


def _sampling(context: RolloutContext, policy: str) -> dict[str, Any]:
    """How it was sampled, as far as it is not as usual: what a trace of before lacks, it had as usual."""
    grant = {"grant": context.grant} if context.grant < 1 else {}
    told: dict[str, Any] = {
        "abilities": dict(context.abilities),
        "notes": context.notes | context.ledger.notes(),
    }
    told["chat_forks"] = context.ledger.forks
    told["top_logprobs"] = getattr(context.policies[policy], "top_logprobs", 0)
    return asdict(context.sampling) | grant | {name: values for name, values in told.items() if values}
