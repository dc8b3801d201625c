"""The abilities of policies that learn together: γ of item response theory, measured on validation tasks, alone.

γ = ln(a/(1 − a))/1.7 for a share a of tasks that a policy solves. The paper (ILR, 2509.26306) measures it once, on 1,000 tasks,
and does not say how it is scaled; this scale is ours (see graphs/README.md). With n tasks, a is at least 1/(2n) and at most
1 − 1/(2n), or γ would be infinite.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aipo.config.build import Experiment
from aipo.errors import TrainError
from aipo.evaluate.parts import verdict
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.run_limits import commonest_error
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode, Trace
from aipo.util.files import writing

_SCALE = 1.7


def ability(solved: int, tasks: int) -> float:
    """γ of a policy that solved so many of `tasks` tasks."""
    share = min(max(solved / tasks, 0.5 / tasks), 1 - 0.5 / tasks)
    return math.log(share / (1 - share)) / _SCALE


class Abilities:
    """The abilities of all policies, measured when they are due and kept in a file, so that a resumed run knows them.

    Args:
        file: one line for each measurement.
        on_trace: sees every rollout of a measurement; none is kept.
    """

    def __init__(self, experiment: Experiment, engine: RolloutEngine, file: Path, on_trace: OnTrace) -> None:
        self._experiment, self._engine, self._file, self._on_trace = experiment, engine, file, on_trace
        self._measured: dict[int, Mapping[str, float]] = _read(file)

    def at(self, step: int, progress: Callable[[int, int], object]) -> Mapping[str, float]:
        """The abilities in rollout step `step`; measures them where it is time to. Empty where nothing is measured.

        Raises:
            TrainError: all rollouts of a policy failed.
        """
        settings = self._experiment.method.abilities
        if settings.split is None:
            return {}
        due = step // settings.steps * settings.steps if settings.steps else 0
        if step == due and step not in self._measured:
            self._measure(step, progress)
        elif due not in self._measured:
            raise TrainError(
                f"abilities of step {due}: got none in {self._file}, allowed those that were measured then; put the file back"
            )
        return self._measured[due]

    def _measure(self, step: int, progress: Callable[[int, int], object]) -> None:
        settings = self._experiment.method.abilities
        every = self._engine.env.tasks(str(settings.split))
        count = min(settings.tasks, len(every))
        tasks = [every[number * len(every) // count] for number in range(count)]
        specs = [
            RolloutSpec(
                task=task,
                mode=Mode.SOLO,
                group_id=f"ability-{step:05d}-{number:03d}",
                index=0,
                step=step,
                seed=derive_seed(self._experiment.seed, "ability", step, number),
            )
            for number, task in enumerate(tasks)
        ]
        traces = self._engine.run_sync(specs, self._on_trace, progress)
        solved = {name: _solved(name, traces) for name in self._engine.policies}
        abilities = {name: ability(*counts) for name, counts in solved.items()}
        line = {"step": step, "abilities": abilities, "solved": solved}
        with writing("measuring abilities", self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._measured[step] = abilities


def _solved(name: str, traces: Sequence[Trace]) -> tuple[int, int]:
    """How many tasks a policy solved, and of how many that have a verdict."""
    own = [trace for trace in traces if trace.policy == name]
    judged = [trace for trace in own if trace.reward is not None]
    if not judged:
        raise TrainError(
            f"ability of policy {name!r}: got {len(own)} failed rollouts, allowed at least one with a reward. "
            f"{commonest_error(own) if own else ''}"
        )
    return sum(verdict(trace) >= 1 for trace in judged), len(judged)


def _read(file: Path) -> dict[int, Mapping[str, float]]:
    if not file.is_file():
        return {}
    whole = [
        text for text in file.read_text(encoding="utf-8").splitlines(keepends=True) if text.endswith("\n")
    ]
    lines = [json.loads(text) for text in whole]
    return {line["step"]: line["abilities"] for line in lines}
