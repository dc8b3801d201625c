"""A warm-up: demonstrations, supervised training on them, and whether the policy asks before and after.

It is a run like any other: the same graph, trainer, schedule and run folder. A demonstration is a rollout in which a
teacher writes in the policy's place. With the credit `reward` and the coefficient `constant` the loss of its tokens is
their cross-entropy, times the reward; without a reward they have none, and what agents said never has one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import TrainError
from aipo.rollout.context import RolloutContext
from aipo.rollout.demonstration import TEACHER
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.run_limits import commonest_error
from aipo.rollout.spec import RolloutSpec
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.train.run import train_run
from aipo.train.sources import Course, Sampler
from aipo.util.console import print_line, print_warning
from aipo.util.files import write_json
from aipo.util.output import write_event
from aipo.util.termination import TERMINATION
from aipo.warmup.asking import AFTER, BEFORE, measure, table
from aipo.warmup.demonstrations import Demonstrations
from aipo.warmup.teacher import ChatTeacher, EnvTeacher, build_teacher

METHOD = {
    "credit": "reward",
    "scale_by_std": False,
    "scale_by_active": False,
    "coefficient": "constant",
    "distil_weight": 0.0,
}
"""The settings under which the loss of a demonstration's tokens is their cross-entropy, times the reward."""
RISING, FALLING = 0.1, 0.5
"""Shares of the steps in which the learning rate rises and falls."""


def warm_up(experiment: Experiment, *, resume: bool, console: Console) -> None:
    """Trains a policy on demonstrations of consulting, and leaves its run folder.

    Raises:
        AipoError: see `aipo.errors`; finished traces and checkpoints stay where they are.
    """
    experiment.check_single("`aipo warmup`")
    supervised = supervised_settings(experiment)
    course = Warmup(supervised, console)
    train_run(supervised, resume=resume, evaluate_after=False, console=console, course=course)


def supervised_settings(experiment: Experiment) -> Experiment:
    """The experiment with the method and the schedule of its warm-up.

    Raises:
        ConfigError: settings that contradict each other.
    """
    warmup = experiment.warmup
    supervised = experiment.with_settings(
        {
            "method": {**METHOD, "assist_share": warmup.assist_share},
            "train.steps": warmup.steps,
            "train.tasks_per_step": warmup.demonstrations,
            "train.group_size": 1,
            "train.minibatches": math.ceil(warmup.demonstrations / warmup.batch),
            "train.passes": warmup.passes,
            "train.learning_rate": warmup.learning_rate,
            "train.warmup": RISING,
            "train.decay": FALLING,
        }
    )
    supervised.dropped = experiment.dropped
    return supervised


class Warmup(Course):
    """The demonstrations of a teacher, as a run learns from them."""

    teacher: EnvTeacher | ChatTeacher

    def __init__(self, experiment: Experiment, console: Console) -> None:
        super().__init__(experiment, "warmup")
        self._console, self._folder = console, RunFolder(experiment.out)
        self._demonstrations = Demonstrations(experiment)

    def check(self) -> None:
        """Refuses a teacher that cannot teach this, and splits that cannot be drawn from.

        Raises:
            AipoError: says why.
        """
        self.teacher = build_teacher(self.experiment)
        self.specs(0)

    def specs(self, step: int) -> list[RolloutSpec]:
        """The demonstrations of a rollout step."""
        return self._demonstrations.specs(step)

    def engine(self, engine: RolloutEngine) -> RolloutEngine:
        """The engine with the teacher in the policy's place. It is in this process, also where worker processes make the
        policy's own rollouts."""
        return replace(engine, elsewhere=None, adapt=self._taught)

    def _taught(self, _: RolloutSpec, context: RolloutContext) -> RolloutContext:
        chats = {TEACHER: self.teacher.chat} if isinstance(self.teacher, ChatTeacher) else {}
        return replace(context, teacher=self.teacher, chats={**context.chats, **chats})

    def collected(self, traces: Sequence[Trace], engine: RolloutEngine) -> None:
        """Checks the first demonstrations, and sees whether the policy asks before it is trained.

        Raises:
            TrainError: none of them has a reward; with the commonest reason.
        """
        rewarded = sum((trace.reward or 0) > 0 for trace in traces)
        print_line(self._console, f"{rewarded} of {len(traces)} demonstrations have a reward")
        if traces[0].step:
            return
        if not rewarded:
            raise TrainError(
                f"demonstrations of the first step: got {len(traces)} without a reward, allowed at least one with a reward. "
                f"{verdict(traces)}. `aipo traces {self._folder.path}` shows them"
            )
        self._measure(BEFORE, engine)

    def trained(self, sampler: Sampler) -> None:
        """Sees whether the policy asks now, and prints the table."""
        TERMINATION.check()
        policy, engine = sampler
        policy.refresh()
        self._measure(AFTER, engine)
        policy.finish()
        asking = self._folder.read_warmup()
        self._console.print(table(asking))
        write_event(self._console, "asking", **asking)

    def _measure(self, when: str, engine: RolloutEngine) -> None:
        known = self._folder.read_warmup()
        if when == BEFORE and when in known:  # a resumed run whose policy is trained already
            return
        warn = partial(print_warning, self._console)
        asked = f"{len(self._demonstrations.probes)} assisted rollouts of the policy itself"
        print_line(self._console, f"{asked}, {when} it learns from demonstrations")
        result = measure(self.experiment, engine, self._folder, when, self._demonstrations.probes, warn)
        write_json(self._folder.warmup, {**known, when: result})


def verdict(traces: Sequence[Trace]) -> str:
    """Why none of these rollouts has a reward: the commonest error, or reward and notice."""
    if failed := [trace for trace in traces if trace.reward is None]:
        return commonest_error(failed)
    ((parts, times),) = Counter(str(trace.reward_parts) for trace in traces).most_common(1)
    notices = Counter(consult.error for trace in traces for consult in trace.consults if consult.fault)
    told = [f". Most frequent notice ({count} times): {notice}" for notice, count in notices.most_common(1)]
    return "".join([f"Most frequent verdict ({times} times): {parts}", *told])
