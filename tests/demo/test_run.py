"""The demo: its pieces, and the whole of it on a policy that has learned next to nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aipo.compare.results import ArmResult, MatrixResults
from aipo.config import presets
from aipo.config.build import Experiment, load_experiment
from aipo.demo import run as demo
from aipo.demo.demos import DEMOS, MINIATURE, PEERS, SMOLLM2, demo_of
from aipo.demo.run import asked, demo_matrix, flawed, run_demo, summarise
from aipo.errors import ConfigError, RunError, TrainError
from aipo.trace.store import TraceStore
from kit import handmade

RESULT = {"heldout": {"solo": {"pass_at": {"1": 0.25, "8": None}}, "suppressed": {"pass_at": {"1": 0.5}}}}
TINY = [
    "policy.options.steps=30", "env.mixture={easy_train: 0.5, hard: 0.5}", "train.steps=1", "train.tasks_per_step=2", "train.group_size=4",
    "rollout.max_tokens=16", "evaluate.samples=1", "evaluate.ks=[1]",
]  # fmt: skip


def results(**evaluations: Any) -> MatrixResults:
    finished = (ArmResult(arm=arm, seed=3, evaluation=one) for arm, one in evaluations.items())
    return MatrixResults(finished=tuple(finished), missing=())


def test_summary_keys_are_flat_and_those_of_the_first_arm_are_plain() -> None:
    scores = {"solo_pass1.heldout": 0.25, "solo_pass8.heldout": None, "solo_pass1_no_tags.heldout": 0.5}
    assert summarise(12.34, results(before=RESULT, aipo=RESULT, grpo=RESULT)) == {
        **{"seed": 3, "wall_s": 12.3},
        **{f"{name}.before": score for name, score in scores.items()},
        **{f"{name}.after": score for name, score in scores.items()},
        **{f"grpo.{name}.after": score for name, score in scores.items()},
    }


def test_the_last_table_shows_what_was_measured() -> None:
    console = Console(record=True, width=120, force_terminal=False)
    console.print(demo.last_table(MINIATURE, results(before=RESULT, aipo={}), "title"))
    screen = console.export_text()
    assert "unknown facts" in screen and "0.250" in screen and "–" in screen
    assert "complements" not in screen and "with agents" not in screen


def test_a_place_that_is_no_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out, says in (
        (tmp_path, "which is not empty, allowed a new folder"),
        (tmp_path / "file", "demo --out"),
        (tmp_path / "file" / "demo", "demo --out"),
    ):
        with pytest.raises(RunError, match=says):
            run_demo(out, seed=0, arms=("aipo_distil",), console=Console(quiet=True))


@pytest.mark.parametrize(
    "arms", [(), ("aipo_distil", "aipo_distil"), ("aipo_distil", "my.yaml"), ("../aipo",)]
)
def test_arms_are_presets(tmp_path: Path, arms: tuple[str, ...]) -> None:
    others = {"small", "smollm2", "gsm8k-tutor"}
    known = ",".join(name for name in presets() if name not in others and not name.endswith("gpu"))
    with pytest.raises(ConfigError, match=f"allowed some of {known}, each once"):
        run_demo(tmp_path / "demo", seed=0, arms=arms, console=Console(quiet=True))
    assert not (tmp_path / "demo").exists()


def test_the_demo_leaves_a_summary_and_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At a size that takes seconds; every process that it starts gets the same overrides.
    monkeypatch.setitem(DEMOS, "miniature", replace(MINIATURE, plan=(*MINIATURE.plan, *TINY)))
    out = tmp_path / "demo"
    console = Console(record=True, width=120, force_terminal=False)
    run_demo(out, seed=5, arms=("aipo_distil", "grpo"), console=console)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 5
    names = [f"solo_pass1.{split}.{when}" for split in ("heldout", "easy") for when in ("before", "after")]
    for key in ("wall_s", *names, "solo_pass1_no_tags.heldout.after", "grpo.solo_pass1.heldout.after"):
        assert isinstance(summary[key], int | float), key
    page = (out / "report.html").read_text()
    assert "grpo" in page and "Before training, solo" in page and "[1m" not in page
    files = {"config.yaml", "manifest.json", "metrics.jsonl", "traces", "model"}
    for arm in ("aipo_distil", "grpo"):
        assert {path.name for path in (out / arm).iterdir()} >= files
    screen = console.export_text()
    assert "unknown facts" in screen and "rewarded rollouts" in screen
    assert "aipo graph consult" in screen
    assert screen.index("cold start     30 s") < screen.index("aipo view") < screen.index("Next:")
    budget = "Every arm has the same budget: 8 rollouts and 12 optimizer steps."
    for words in ("3@7+20=?", budget, "agents&#39; tokens"):
        assert words in page, words


def stopped(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, console = tmp_path / "demo", Console(record=True, width=200, force_terminal=False)
    monkeypatch.setattr(demo, "run_matrix", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, seed=5, arms=("aipo_distil", "grpo"), console=console)
    assert [path.name for path in out.iterdir()] == ["demo.json"]
    assert f"The same command goes on from what is in {out}" in console.export_text()
    for seed, arms in ((6, ("aipo_distil", "grpo")), (5, ("aipo_distil",))):
        with pytest.raises(
            RunError, match="allowed a new folder, or that of the same demo that was interrupted"
        ):
            run_demo(out, seed=seed, arms=arms, console=console)
    (out / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="which is not empty"):
        run_demo(out, seed=5, arms=("aipo_distil", "grpo"), console=console)


def test_an_interrupted_cold_start_says_that_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def cold_start(*, seed: int, progress: Any) -> Path:
        progress(10, 900, 2.5)
        raise KeyboardInterrupt

    monkeypatch.setattr("envs.miniature.model.cold_start", cold_start)
    experiment, notes = load_experiment("aipo_distil"), list[Any]()
    assert experiment.policy.making == "cold start"
    assert load_experiment("qwen2.5-1.5b-1gpu").policy.making == "policy"
    with pytest.raises(KeyboardInterrupt):
        experiment.build_model(lambda *note: notes.append(note))
    lost = "the cold start was interrupted, and nothing of it is kept"
    assert notes == [(10, 900, "loss 2.500"), (1, 1, lost)]


def test_consults_are_counted_by_agent() -> None:
    row = {
        "rollouts/assisted": 64.0,
        "consults/knowledge": 0.5,
        "consults/verify": 0.25,
        "consults/unknown": 0.03125,
    }
    result = ArmResult(arm="aipo_distil", seed=0, evaluation={}, metrics=[row, {"step": 2}, row])
    assert asked(result) == "aipo_distil: while training, it asked knowledge 64 times, verify 32 times, " + (
        "names that are no agent 4 times."
    )
    assert asked(ArmResult(arm="grpo", seed=0, evaluation={}, metrics=[{"step": 1}])) == ""


def test_rewarded_rollouts_with_a_wrong_line_are_counted(tmp_path: Path) -> None:
    matrix = demo_matrix(MINIATURE, tmp_path, 0, ("aipo_distil",))
    shown, scores = handmade.trace(handmade.policy("#5")), [(1.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    traces = [
        replace(shown, trace_id=str(i), reward=right, reward_parts={"correct": right, "derivation": holds})
        for i, (right, holds) in enumerate(scores)
    ]
    with TraceStore(matrix.cell("aipo_distil", 0).folder.traces) as store:
        store.seal(0, traces)
    assert flawed(matrix, "aipo_distil") == (
        "aipo_distil: in 1 of 3 rewarded rollouts (33.3%) a line before the right answer is wrong."
    )


def test_an_arm_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (*MINIATURE.plan, *TINY, "env.mixture={nowhere: 1.0}")
    monkeypatch.setitem(DEMOS, "miniature", replace(MINIATURE, plan=broken))
    says = r"(?s)aipo_distil 0 ended with exit code 2, its log is .*aipo_distil\.log.*nowhere"
    with pytest.raises(TrainError, match=says):
        run_demo(tmp_path / "demo", seed=0, arms=("aipo_distil",), console=Console(quiet=True))


@pytest.mark.parametrize("arm", ["grpo", "dapo", "dr_grpo", "gspo", "cispo", "mask", "echo"])
def test_arms_have_the_same_budget(arm: str) -> None:
    def budget(experiment: Experiment) -> dict[str, object]:
        return {name: experiment.settings[name] for name in ("train", "rollout", "env", "evaluate", "policy")}

    assert budget(load_experiment("aipo_distil")) == budget(load_experiment(arm))


def test_arms_on_a_real_model_have_the_method_of_the_preset_of_their_name(tmp_path: Path) -> None:
    assert {"aipo", "aipo_distil", "grpo", "luffy"} < set(SMOLLM2.arms)
    assert not {"sft", "sft_traces", "smollm2", "small"} & set(SMOLLM2.arms)
    matrix = demo_matrix(SMOLLM2, tmp_path, 3, ("aipo", "grpo"))
    (warmup,) = matrix.warmups.values()
    assert warmup.stages[0].experiment.policy.model == "envs.smollm2:smollm2"
    assert warmup.stages[0].experiment.threads is None  # all cores: nothing runs beside it
    for arm in ("aipo", "grpo"):
        experiment = matrix.cell(arm, 3).stages[0].experiment
        assert experiment.method == load_experiment(arm).method
        assert (experiment.env_name, experiment.train.steps) == ("envs.almanac:Almanac", 25)
        assert (experiment.policy.model, experiment.threads) == (str(tmp_path / "warmup" / "model"), 1)
    with pytest.raises(ConfigError, match="--model: got 'gpt', allowed one of miniature, smollm2"):
        run_demo(tmp_path / "demo", model="gpt", seed=0, arms=("grpo",), console=Console(quiet=True))


def test_where_policies_learn_together_every_arm_trains_the_same_one(tmp_path: Path) -> None:
    assert demo_of("miniature", ("aipo", "grpo")) is MINIATURE and demo_of("smollm2", None) is SMOLLM2
    chosen = demo_of("miniature", ("ilr", "grpo"))
    assert chosen is PEERS and demo_of("miniature", chosen.default) is PEERS
    matrix = demo_matrix(chosen, tmp_path, 3, ("ilr", "grpo"))
    ilr, grpo = (matrix.cell(arm, 3).stages[-1] for arm in ("ilr", "grpo"))
    assert (ilr.folder.path, grpo.folder.path) == (tmp_path / "ilr/policies/left", tmp_path / "grpo")
    left, alone = ilr.experiment.of_policy("left"), grpo.experiment
    assert (alone.policy.model, alone.policy.options) == (left.policy.model, left.policy.options)
    assert left.policy.options == {"side": "left"}
    assert [one.evaluation for one in (left, alone)] == [left.evaluation] * 2
    assert left.train.steps == alone.train.steps == 40
    console = Console(record=True, width=200)
    demo.print_plan(matrix, chosen, console)
    assert "40 rollout steps of left and right, which discuss, then evaluated" in console.export_text()
