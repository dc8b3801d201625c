"""The samples of an evaluation as they end: one line each in samples.jsonl, and the traces that are kept.

A line is written when a rollout ends, so that a killed evaluation loses none and `--resume` samples none twice. A sample
that is there twice was done again, since a machine had failed; the later line holds.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from aipo.errors import RunError
from aipo.trace import Role, StopReason, Trace
from aipo.trace.journal import Journal
from aipo.trace.store import TraceStore, list_traces
from aipo.trace.text import Decode
from aipo.util.files import writing
from aipo.util.text import to_json

SAMPLES = "samples.jsonl"
REDONE = (StopReason.ERROR, StopReason.CANCELLED)
"""Ends of rollouts that a resumed evaluation does again: a machine failed, and not the answer."""
_TRACES_IN_FILE = 512


@dataclass(frozen=True, slots=True)
class SampleKey:
    """The identity of a sample."""

    split: str
    setting: str
    task_id: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """One sample: a rollout of one task under one setting.

    Args:
        correct: the reward part that decides; None = unscored or failed.
        answer: what counts as the answer, where the environment says so.
        reason: what the environment says of its verdict.
        error: why it failed or is unscored.
        kept: its trace is in the evaluation's folder.
        tokens: that the policy sampled; `agent_tokens`: that agents put into the context.
        calls: of agents' chat models; `call_tokens_in` and `call_tokens_out` as their servers counted them.
        dollars: the cost of these calls; None = nobody knows the prices.
    """

    split: str
    setting: str
    task_id: str
    index: int
    correct: float | None
    reward: float | None
    answer: str | None
    reason: str | None = None
    stop: StopReason
    error: str | None
    trace_id: str
    kept: bool
    tokens: int
    agent_tokens: int
    consults: int
    calls: int
    call_tokens_in: int
    call_tokens_out: int
    dollars: float | None
    seconds: float

    @classmethod
    def of(
        cls, trace: Trace, key: SampleKey, *, correct: float | None, answer: str | None, kept: bool
    ) -> Self:
        calls = [call for visit in trace.visits for call in visit.calls]
        costs = [call.cost for call in calls if call.cost is not None]
        return cls(
            split=key.split,
            setting=key.setting,
            task_id=key.task_id,
            index=key.index,
            correct=correct,
            reward=trace.reward,
            answer=answer,
            reason=trace.reason,
            stop=trace.stop_reason,
            error=trace.error,
            trace_id=trace.trace_id,
            kept=kept,
            tokens=sum(len(s) for s in trace.segments if s.role is trace.author),
            agent_tokens=sum(trace.count(role) for role in (Role.AGENT,) if role is not trace.author),
            consults=len(trace.consults),
            calls=len(calls),
            call_tokens_in=sum(call.tokens_in or 0 for call in calls),
            call_tokens_out=sum(call.tokens_out or 0 for call in calls),
            dollars=sum(costs) if costs else None,
            seconds=trace.seconds,
        )

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.split, self.setting, self.task_id, self.index)

    @property
    def passed(self) -> bool:
        return self.correct is not None and self.correct >= 1


def read_samples(folder: Path) -> list[SampleResult]:
    """The samples of an evaluation so far; none where it has no samples.jsonl. A line without its end is being written.

    Raises:
        RunError: a line is no sample.
    """
    file = folder / SAMPLES
    if not file.is_file():
        return []
    samples: dict[SampleKey, SampleResult] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            sample = _adapter().validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise RunError(
                f"{file}, line {number}: got {first['msg']} at {'.'.join(map(str, first['loc']))}, allowed what `aipo eval` writes"
            ) from error
        samples[sample.key] = sample
    return [*samples.values()]


@cache
def _adapter() -> TypeAdapter[SampleResult]:
    return TypeAdapter(SampleResult)


class SampleStore:
    """Writes the samples of one evaluation. A context manager; sealed at its end.

    Args:
        folder: of the evaluation.
        judge: a rollout's sample.
        resume: goes on from the samples that are there; else they are set aside.
        decode: token ids to text.

    Raises:
        RunError: the disk is full, the folder cannot be written, or a line in it is no sample.
        TraceError: a trace in it is none.
    """

    def __init__(
        self, folder: Path, judge: Callable[[Trace], SampleResult], *, resume: bool, decode: Decode | None
    ) -> None:
        self._folder, self._judge = folder, judge
        self._traces = TraceStore(folder, decode=decode)
        self._kept: list[Trace] = []
        if not resume:
            self._set_aside()
        self.samples = {sample.key: sample for sample in read_samples(folder)}
        with writing("writing samples", folder):
            self._log = Journal(folder / SAMPLES)
        _, unsealed = list_traces(folder)
        for file in unsealed:  # of a killed attempt
            traces = [*self._traces.read(file.step)]
            for trace in traces:
                if (sample := judge(trace)).key not in self.samples:  # killed between the trace and its line
                    self._note(sample)
            self._traces.seal(file.step, traces)
        self._step = max(self._traces.steps(), default=-1) + 1

    def add(self, trace: Trace) -> None:
        """Writes the sample, and its trace if it is kept. A cancelled one is no sample: the evaluation was stopped.

        Raises:
            RunError: the disk is full or fails.
            ConfigError: it has no reward part that decides.
        """
        sample = self._judge(trace)
        if sample.stop is StopReason.CANCELLED:
            return
        if sample.kept:
            if sample.key in self.samples:  # the failed one has its own trace
                name = f"{trace.trace_id}@{self._step}"
                trace, sample = replace(trace, trace_id=name), replace(sample, trace_id=name)
            kept = trace if trace.step == self._step else replace(trace, step=self._step)
            self._traces.append(kept)
            self._kept.append(kept)
        self._note(sample)
        if len(self._kept) >= _TRACES_IN_FILE:
            self.seal()

    def seal(self) -> None:
        """Makes a Parquet file of the traces since the last one."""
        if self._kept:
            self._traces.seal(self._step, self._kept)
            self._kept, self._step = [], self._step + 1

    def close(self) -> None:
        self._traces.close()
        with writing("writing samples", self._folder):
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note(self, sample: SampleResult) -> None:
        with writing("writing a sample", self._folder):
            self._log.append(to_json(sample) + b"\n")
        self.samples[sample.key] = sample

    def _set_aside(self) -> None:
        self._traces.begin(0)
        if (self._folder / SAMPLES).exists():
            aside = self._folder / "__superseded"
            with writing("setting samples aside", self._folder):
                aside.mkdir(exist_ok=True)
                os.replace(self._folder / SAMPLES, aside / SAMPLES)


def missing(keys: Iterable[SampleKey], done: Mapping[SampleKey, SampleResult]) -> set[SampleKey]:
    """Those that are still to be sampled, or again."""
    return {key for key in keys if key not in done or done[key].stop in REDONE}
