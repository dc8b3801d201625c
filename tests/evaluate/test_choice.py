"""One queue of rollouts for several data sets, in this process and in worker processes."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aipo.config.build import Experiment, load_experiment
from aipo.evaluate import choice
from aipo.evaluate.choice import RoutedEngine, routed
from aipo.policies import Policy
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.engine import RolloutEngine
from aipo.trace import Mode
from kit.engines import TOKENIZER, Exam, Worked, spec


def experiments(tmp_path: Path) -> list[Experiment]:
    """Each data set has an environment and a length of its own."""
    given = [("Exam", "easy", 4), ("Worked", "hard", 8)]
    return [
        load_experiment(
            "grpo",
            [
                f"env={{name: 'kit.engines:{name}'}}",
                f"evaluate={{splits: [{split}], settings: [solo]}}",
                f"rollout={{max_tokens: {length}, reward_weights: {{correct: 1.0, short: 0.0}}}}",
                *("graph.name=graphs.solo:solo", f"run.out={tmp_path}"),
            ],
        )
        for name, split, length in given
    ]


def policy() -> Policy:
    return ScriptedPolicy(TOKENIZER, lambda _: "it is 42, I think")


def build() -> tuple[RolloutEngine | None, Policy]:
    return None, policy()


def lengths(engine: RolloutEngine) -> list[tuple[str, int]]:
    tasks = [*Exam().tasks("easy")[:1], *Exam().tasks("hard")[:1]]
    asked = [spec(task=task, mode=Mode.SOLO, group_id=task.split) for task in tasks]
    return [(t.task["split"], len(t.segments[1])) for t in engine.run_sync(asked, lambda trace: None)]


def test_each_data_set_rolls_out_in_its_engine(tmp_path: Path) -> None:
    both = experiments(tmp_path)
    engine = routed(both, policy(), "run", ())
    assert isinstance(engine, RoutedEngine) and lengths(engine) == [("easy", 4), ("hard", 8)]
    kinds = {split: type(route.env).__name__ for split, route in engine.routes.items()}
    assert kinds == {"easy": Exam.__name__, "hard": Worked.__name__}
    assert not isinstance(routed(both[:1], policy(), "run", ()), RoutedEngine)


def test_a_worker_process_builds_the_same(tmp_path: Path) -> None:
    work: Callable[..., Any] = choice._worker  # pyright: ignore[reportPrivateUsage]
    sent = pickle.dumps(partial(work, build, experiments(tmp_path), "run"))
    engine, _ = pickle.loads(sent)()
    assert lengths(engine) == [("easy", 4), ("hard", 8)]
