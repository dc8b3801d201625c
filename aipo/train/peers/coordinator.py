"""Several policies that learn together: one run of a graph, one trace for each policy, one trainer each."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aipo.errors import TrainError
from aipo.method.step_rows import StepRows


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a trainer; `error` is what it raised."""

    error: BaseException | None


class Coordinator:
    """One producer of rows for several trainers, one thread each, that learn together.

    When all trainers ask for a rollout step, `produce(step)` runs once, in the thread that called `train`, and everybody gets
    the rows of its own policy. No weight moves meanwhile. Between two rollout steps the trainers train one at a time. When
    one stops or dies, the others get an error in place of rows.

    Args:
        policies: names of the policies, one trainer each.
        produce: rollout step to the rows of every policy.
        updated: called with a policy's name and version after each of its optimizer steps.
    """

    def __init__(
        self,
        policies: Sequence[str],
        produce: Callable[[int], Mapping[str, StepRows]],
        *,
        updated: Callable[[str, int], None] = lambda policy, version: None,
    ) -> None:
        self._produce, self.updated = produce, updated
        self._asked: queue.SimpleQueue[tuple[str, int | _End]] = queue.SimpleQueue()
        self._answers: dict[str, queue.SimpleQueue[StepRows | BaseException]] = {
            policy: queue.SimpleQueue() for policy in policies
        }
        self._turn = threading.Lock()

    def seat(self, policy: str) -> "Seat":
        """The row source of one trainer.

        Raises:
            TrainError: no such policy.
        """
        if policy not in self._answers:
            raise TrainError(f"policy of a seat: got {policy!r}, allowed {sorted(self._answers)}")
        return Seat(self, policy)

    def train(self, trainers: Mapping[str, Callable[[], object]]) -> None:
        """Runs every trainer's `train` in a thread of its own until all are done.

        Raises:
            TrainError: the trainers are not the policies'; they ask for different steps, or one stopped early.
            Exception: what the first trainer that died raised, or `produce`.
        """
        if set(trainers) != set(self._answers):
            raise TrainError(f"trainers: got {sorted(trainers)}, allowed one each of {sorted(self._answers)}")
        threads = [
            threading.Thread(target=self._run, args=pair, name=f"trainer-{pair[0]}", daemon=True)
            for pair in trainers.items()
        ]
        for thread in threads:
            thread.start()
        try:
            while self._meet():
                pass
        except BaseException as error:
            for answer in self._answers.values():
                answer.put(error)
            raise
        finally:
            for thread in threads:
                thread.join()

    def take(self, policy: str, step: int) -> StepRows:
        """Lets the others train, waits until they ask, too, and gives `policy` its rows of `step`.

        Raises:
            BaseException: what ended the meeting.
        """
        self._turn.release()
        try:
            self._asked.put((policy, step))
            answer = self._answers[policy].get()
        finally:
            self._turn.acquire()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _run(self, policy: str, train: Callable[[], object]) -> None:
        error: BaseException | None = None
        with self._turn:
            try:
                train()
            except BaseException as caught:  # raised again by the thread that called
                error = caught
        self._asked.put((policy, _End(error)))

    def _meet(self) -> bool:
        """One rollout step; False when all trainers are done. Each of them asks or ends."""
        said = dict(self._asked.get() for _ in self._answers)
        ends = {policy: word for policy, word in said.items() if isinstance(word, _End)}
        steps = {policy: word for policy, word in said.items() if not isinstance(word, _End)}
        for end in ends.values():
            if end.error is not None:
                raise end.error
        if ends and steps:
            raise TrainError(f"rollout steps {steps}: trainers {sorted(ends)} are done")
        if ends:
            return False
        if len(set(steps.values())) != 1:
            raise TrainError(f"rollout step: got {steps}, allowed the same one for every trainer")
        rows = self._produce(next(iter(steps.values())))
        for policy, answer in self._answers.items():
            answer.put(rows[policy])
        return True


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
