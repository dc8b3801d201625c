"""Several policies that learn together: one graph run, one trace for each policy, one trainer each."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aipo.errors import TrainError
from aipo.method.step_rows import StepRows


class _OtherStoppedError(TrainError):
    """Another trainer stopped, so this one cannot go on."""


class Coordinator:
    """One producer of rows for several trainers, one thread each, that learn together.

    Trainers meet at every rollout step: when the last one asks, `produce(step)` runs once (so no weight
    moves while it does) and everybody gets the rows of its own policy. A trainer that stops or dies
    ends the meeting: the others get a TrainError instead of waiting for ever.

    Args:
        policies: names of the policies, one trainer each.
        produce: rollout step to the rows of every policy.
        updated: called with a policy's name and version after each of its optimizer steps.
        timeout: seconds that a trainer waits for the others to come; None = no limit.
    """

    def __init__(
        self,
        policies: Sequence[str],
        produce: Callable[[int], Mapping[str, StepRows]],
        *,
        updated: Callable[[str, int], None] = lambda policy, version: None,
        timeout: float | None = None,
    ) -> None:
        self._produce, self.updated, self._timeout = produce, updated, timeout
        self._policies = tuple(policies)
        self._meeting = threading.Barrier(len(self._policies), self._meet, timeout)
        self._steps: dict[str, int] = {}
        self._rows: Mapping[str, StepRows] = {}
        self._rounds = 0
        self._over: str | None = None

    def seat(self, policy: str) -> "Seat":
        """The row source of one trainer.

        Raises:
            TrainError: no such policy.
        """
        if policy not in self._policies:
            raise TrainError(f"policy of a seat: got {policy!r}, allowed {sorted(self._policies)}")
        return Seat(self, policy)

    def train(self, trainers: Mapping[str, Callable[[], object]]) -> None:
        """Runs every trainer's `train` in a thread of its own until all are done.

        Raises:
            TrainError: the trainers are not the policies'.
            Exception: what the first trainer that died raised.
        """
        if set(trainers) != set(self._policies):
            raise TrainError(
                f"trainers: got {sorted(trainers)}, allowed one each of {sorted(self._policies)}"
            )
        errors: list[BaseException] = []

        def guarded(policy: str, train: Callable[[], object]) -> None:
            try:
                train()
                self._end(f"trainer {policy!r} is done")
            except BaseException as error:  # raised again below, by the thread that called
                errors.append(error)
                self._end(f"trainer {policy!r} died: {error!r}")

        threads = [
            threading.Thread(target=guarded, args=pair, name=f"trainer-{pair[0]}", daemon=True)
            for pair in trainers.items()
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._end("interrupted")
            raise
        if errors:
            # Who was woken because another one died may be here before it.
            raise min(errors, key=lambda error: isinstance(error, _OtherStoppedError))

    def take(self, policy: str, step: int) -> StepRows:
        """Waits for the others and gives `policy` its rows of `step`.

        Raises:
            TrainError: another trainer stopped, asked for another step, or did not come in time.
        """
        self._steps[policy], rounds = step, self._rounds
        # Who is through may die before the others have woken: the round counts, not the barrier's state.
        with suppress(threading.BrokenBarrierError):
            self._meeting.wait()
        if self._rounds == rounds:
            missing = sorted(set(self._policies) - set(self._steps))
            self._end(f"got no {missing} within {self._timeout} s")
            raise _OtherStoppedError(f"rollout step {step} of policy {policy!r}: {self._over}")
        return self._rows[policy]

    def _meet(self) -> None:
        """Runs in the thread of the trainer that came last."""
        steps, self._steps = self._steps, {}
        try:
            if len(set(steps.values())) != 1:
                raise TrainError(f"rollout step: got {steps}, allowed the same one for every trainer")
            self._rows = self._produce(next(iter(steps.values())))
        except BaseException as error:
            self._over = self._over or f"no rows were made: {error!r}"
            raise
        self._rounds += 1

    def _end(self, reason: str) -> None:
        self._over = self._over or reason
        self._meeting.abort()


@dataclass(frozen=True)
class Seat:
    """One trainer's place at a coordinator; a `RowSource`."""

    coordinator: Coordinator
    policy: str
    shared: bool = True

    def rows(self, step: int) -> StepRows:
        return self.coordinator.take(self.policy, step)

    def updated(self, version: int) -> None:
        self.coordinator.updated(self.policy, version)
