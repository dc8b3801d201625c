"""Outcomes: costs from the metrics, one line of the table for each number, and what is missing."""

import json
from pathlib import Path

import pytest
import yaml

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import ArmResult, Caveat, Cost, caveats, read_results, write_csv
from aipo.errors import RunError
from aipo.evaluate.statistics import Scored
from aipo.util.files import write_json
from kit.matrices import ARMS, evaluation, finish, make_matrix


def test_a_generation_costs_what_its_rollouts_are_together() -> None:
    row = {"rollouts/solo": 6.0, "rollouts/assisted": 4.0, "rollouts/failed": 2.0, "rollouts/forked": 3.0}
    row |= {"step_time": 1.5}
    row |= {"length/policy": 20.5, "length/agent": 3.0, "calls/verify": 5.0, "calls/knowledge": 2.0}
    row |= {"consults/verify": 1.5, "consults/unknown": 0.25}
    row |= {"call_seconds/verify": 2.0, "call_seconds/knowledge": 0.5}
    # Those that failed or were forked are among the ten.
    assert Cost.of(row) == Cost(
        **{"generated_tokens": 205.0, "agent_calls": 7.0, "agent_tokens": 30.0, "train_seconds": 1.5},
        **{"rollouts": 10.0, "consults": 7.0, "agent_seconds": 2.5},
    )
    assert Cost.of({"step": 2, "step_time": 0.5}) == Cost(train_seconds=0.5)


def test_costs_add_up_over_lines_and_stages(finished: Matrix) -> None:
    grpo, twice = (read_results(finished).of(arm)[0] for arm in ("grpo", "twice"))
    # 20 generations of 64 rollouts of 21 tokens; 2.5 seconds each.
    assert grpo.cost == Cost(generated_tokens=20 * 64 * 21.0, train_seconds=50.0, rollouts=20 * 64.0)
    tokens = {"generated_tokens": 2 * 20 * 64 * 21.0, "agent_tokens": 20 * 64 * 1.5}
    assert twice.cost == Cost(
        **tokens, rollouts=2 * 20 * 64.0, agent_calls=160.0, consults=160.0, train_seconds=100.0
    )
    assert grpo.costs[0].generated_tokens == grpo.costs[1].generated_tokens == 64 * 21.0


def test_scores_are_pass_at_k_of_each_task_with_enough_verdicts() -> None:
    def task(name: str, verdicts: int, correct: int) -> dict[str, object]:
        return {"task_id": name, "cluster": "3@7", "verdicts": verdicts, "correct": correct, "failed": 0}

    tasks = [task("a", 4, 2), task("b", 1, 1), task("c", 0, 0)]
    one = ArmResult(arm="aipo", seed=10, evaluation={"heldout": {"solo": {"per_task": tasks}}})
    at_1, at_2 = (Measure(split="heldout", setting="solo", k=k) for k in (1, 2))
    assert one.scores(at_1) == {"a": Scored("3@7", 0.5), "b": Scored("3@7", 1.0)}
    assert one.scores(at_2) == {"a": Scored("3@7", pytest.approx(5 / 6))}
    assert one.scores(Measure(split="easy", setting="solo", k=1)) == {}


def test_the_table_has_a_line_for_each_number(matrix: Matrix, tmp_path: Path) -> None:
    finish(matrix.cell("grpo", 11), 1.0, facts=3)
    write_csv(tmp_path / "results.csv", read_results(matrix), matrix.measures)
    head, first, *others = (tmp_path / "results.csv").read_text().splitlines()
    assert head == (
        "arm,seed,split,setting,k,value,interval_low,interval_high,tasks,failed,"
        "generated_tokens,agent_calls,agent_tokens,train_seconds,rollouts,consults,agent_seconds"
    )
    assert first == f"grpo,11,heldout,solo,1,1.0,1.0,1.0,6,0,{20 * 64 * 21.1},0.0,0.0,50.0,1280.0,0.0,0.0"
    assert len(others) == 2 * 3 * 3 - 1  # splits, settings, ks


def test_what_is_missing_says_what_it_last_said(matrix: Matrix) -> None:
    finish(matrix.cell("grpo", 10), 0.1, facts=2)
    failed, stopped = matrix.cell("twice", 10), matrix.cell("twice", 11)
    failed.log.parent.mkdir(parents=True)
    failed.log.write_text("loading\nConfigError: env.mixture: got \x1b[31m['nowhere']\n\n")
    finish(stopped, 0.5, facts=2)
    stopped.folder.evaluation("after").unlink()
    stopped.log.write_text("interrupted; finished traces and checkpoints are kept\n")
    missing = {f"{one.arm} {one.seed}": one.why for one in read_results(matrix).missing}
    assert missing == {
        **dict.fromkeys(("before 10", "before 11", "grpo 11", "aipo 10", "aipo 11"), "not run yet"),
        "twice 10": "not begun; last said: ConfigError: env.mixture: got ⟨U+001B⟩[31m['nowhere']",
        "twice 11": "not finished; last said: interrupted; finished traces and checkpoints are kept",
    }


def test_arms_that_were_asked_other_tasks_are_not_compared(finished: Matrix) -> None:
    write_json(finished.cell("twice", 11).folder.evaluation("after"), evaluation(0.5, 11, facts=3))
    with pytest.raises(RunError, match=r"other tasks of split 'heldout' in twice 11 than in before 11"):
        read_results(finished)


def test_a_file_that_is_no_evaluation_is_named(finished: Matrix) -> None:
    finished.cell("grpo", 10).folder.evaluation("after").write_text(json.dumps({})[:-1])
    with pytest.raises(RunError, match=r"grpo/10/evaluations/after\.json: got .*allowed what `aipo eval`"):
        read_results(finished)


def caveats_of(matrix: Matrix) -> tuple[Caveat, ...]:
    return caveats(matrix, read_results(matrix))


def test_seeds_that_were_made_of_other_things_are_caveats_of(finished: Matrix) -> None:
    assert caveats_of(finished) == ()
    folder = finished.cell("twice", 11).folder
    env = {"file": "e.py", "fingerprint": "2"}
    write_json(folder.manifest, {"packages": {"torch": "3"}, "files": {"env": env}})
    expected = (Caveat(kind="mixed", arm="twice", text="its seeds differ in env, torch"),)
    assert caveats_of(finished) == expected
    folder.manifest.unlink()
    assert caveats_of(finished) == expected


def test_seeds_of_other_versions_whose_agents_think_otherwise_are_caveats_of(finished: Matrix) -> None:
    """A run of an older version lacks the tags, and goes on without them; a new seed has today's."""
    for file in (
        finished.cell("twice", 10).stages[0].folder.config,
        Path(finished.before[11].stages[0].name),
    ):
        settings = yaml.safe_load(file.read_text())
        del settings["agents"]["verify"]["thinking"]
        file.write_text(yaml.safe_dump(settings))
    text = "its seeds differ in agents.verify.thinking"
    assert caveats_of(finished) == tuple(
        Caveat(kind="mixed", arm=arm, text=text) for arm in ("before", "twice")
    )


@pytest.mark.parametrize("other", ["policy.options={course: distractors}", "policy.add_tags=true"])
def test_an_arm_that_begins_from_another_policy_is_caveats_of(tmp_path: Path, other: str) -> None:
    text = ARMS + f"  other: {{config: aipo, set: ['{other}']}}\n"
    assert [(one.kind, one.arm) for one in caveats_of(make_matrix(tmp_path, text))] == [("apart", "other")]


def test_rollouts_without_a_verdict_are_counted(matrix: Matrix) -> None:
    finish(matrix.cell("twice", 10), 0.8, facts=2)  # 2 splits x 3 settings x 4 tasks x 4 samples
    file = matrix.cell("twice", 10).folder.evaluation("after")
    evaluated = json.loads(file.read_text())
    evaluated["heldout"]["solo"]["per_task"][0] |= {"verdicts": 1, "correct": 1, "failed": 3}
    write_json(file, evaluated)
    (one,) = caveats_of(matrix)
    assert (one.kind, one.arm) == ("unscored", "twice")
    assert one.text.startswith("3 of 96 evaluated rollouts have no verdict")
