"""Several policies that learn together: one graph run, one trace for each policy, one trainer each."""

import threading
from collections.abc import Callable, Mapping, Sequence
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
        self._produce = produce
        self._updated = updated
        self._timeout = timeout
        self._policies = tuple(policies)
        self._meeting = threading.Condition()
        self._asked: dict[str, int] = {}
        self._made: Mapping[str, StepRows] = {}
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
        with self._meeting:
            self._asked[policy] = step
            mine = self._rounds
            if self._over is None and len(self._asked) == len(self._policies):
                self._meet()
            came = self._meeting.wait_for(
                lambda: self._rounds > mine or self._over is not None, self._timeout
            )
            if not came:
                missing = sorted(set(self._policies) - set(self._asked))
                self._end(f"got no {missing} within {self._timeout} s")
            if self._rounds == mine:
                raise _OtherStoppedError(f"rollout step {step} of policy {policy!r}: {self._over}")
            return self._made[policy]

    def moved(self, policy: str, version: int) -> None:
        """A policy's weights have been updated."""
        self._updated(policy, version)

    def _meet(self) -> None:
        try:
            steps = set(self._asked.values())
            if len(steps) != 1:
                raise TrainError(f"rollout step: got {self._asked}, allowed the same one for every trainer")
            self._made = self._produce(steps.pop())
        except BaseException as error:
            self._end(f"no rows were made: {error!r}")
            raise
        self._asked = {}
        self._rounds += 1
        self._meeting.notify_all()

    def _end(self, reason: str) -> None:
        with self._meeting:
            self._over = self._over or reason
            self._meeting.notify_all()


@dataclass(frozen=True)
class Seat:
    """One trainer's place at a coordinator; a `RowSource`."""

    coordinator: Coordinator
    policy: str
    shared: bool = True

    def rows(self, step: int) -> StepRows:
        return self.coordinator.take(self.policy, step)

    def updated(self, version: int) -> None:
        self.coordinator.moved(self.policy, version)
