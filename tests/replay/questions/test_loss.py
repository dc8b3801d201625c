"""The loss again: that of training to the last digit, and every other setting beside it."""

import csv
import json
from pathlib import Path

import pytest
import torch

from aipo.errors import ConfigError, RunError, TrainError
from aipo.replay.questions.loss_replay import Gradients, norm_of, share_of
from aipo.run import RunFolder
from kit import tiny_run
from kit.recorded import replayed_losses as replay
from kit.recorded import report


def test_the_recorded_setting_has_the_loss_that_training_logged(trained: Path, tmp_path: Path) -> None:
    """In each generation's first optimizer step the weights are still those of the checkpoint."""
    outcomes = replay(trained, tmp_path / "out")
    logged = {line["step"]: line for line in RunFolder(trained).read_metrics()}
    assert [(o["step"], o["optimizer_step"], o["weights"]) for o in outcomes] == [
        (0, 1, "start"),
        (0, 2, "start"),
        (1, 3, "checkpoint-2"),
        (1, 4, "checkpoint-2"),
        (2, 5, "checkpoint-4"),
        (2, 6, "checkpoint-4"),
    ]
    for outcome in outcomes[::2]:
        line = logged[outcome["optimizer_step"]]
        assert outcome["online"] == {"loss": line["loss"], "grad_norm": line["grad_norm"]}
        assert outcome["loss"] == pytest.approx(line["loss"], abs=1e-6)
        assert outcome["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
        for name, value in outcome["metrics"].items():
            assert value == pytest.approx(line[name], abs=1e-5), name
    assert all(outcome["online"] == {} for outcome in outcomes[1::2])  # by then the weights had moved
    assert {"agent/knowledge", "agent/verify"} <= {part for o in outcomes for part in o["parts"]}
    assert any(o["parts"]["distilled"]["tokens"] for o in outcomes if "distilled" in o["parts"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("method.beta=0.1",),
        ("method.importance_cap=1.5",),
        ("method.objective=dr_grpo",),
        ("method.agent_prompt=solo", "method.coefficient_trust=0.5"),
    ],
)
def test_whatever_the_method_was(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    run = tiny_run.train(tiny_run.config(tmp_path / "tiny", "train.steps=2", *overrides))
    outcomes = replay(run, tmp_path / "out")
    gaps = [abs(o["loss"] - o["online"]["loss"]) for o in outcomes if o["online"]]
    assert len(gaps) == 2
    assert max(gaps) < 1e-6


def test_a_grid_is_what_its_settings_are_one_by_one(trained: Path, tmp_path: Path) -> None:
    grid = ["method.coefficient=mask,constant", "method.objective=dapo,grpo", "method.beta=0,0.2"]
    together = replay(trained, tmp_path / "grid", grid=grid, steps=(1, 1))
    assert list(dict.fromkeys(o["setting"] for o in together)) == [
        "coefficient=constant, objective=dapo, beta=0 (as recorded)",
        "coefficient=mask, objective=dapo, beta=0",
        "coefficient=mask, objective=dapo, beta=0.2",
        "coefficient=mask, objective=grpo, beta=0",
        "coefficient=mask, objective=grpo, beta=0.2",
        "coefficient=constant, objective=dapo, beta=0.2",
        "coefficient=constant, objective=grpo, beta=0",
        "coefficient=constant, objective=grpo, beta=0.2",
    ]
    words = ["method.coefficient=mask", "method.objective=grpo", "method.beta=0.2"]
    alone = replay(trained, tmp_path / "one", overrides=words, steps=(1, 1))
    setting = "coefficient=mask, objective=grpo, beta=0.2"
    pair = [{o["optimizer_step"]: o for o in given if o["setting"] == setting} for given in (together, alone)]
    assert pair[0].keys() == pair[1].keys() == {3, 4}
    for step, outcome in pair[0].items():
        assert outcome["loss"] == pytest.approx(pair[1][step]["loss"], abs=1e-7)
        assert outcome["grad_norm"] == pytest.approx(pair[1][step]["grad_norm"], rel=1e-6)


def test_shares_of_the_gradient_add_up_and_masked_agents_have_none(trained: Path, tmp_path: Path) -> None:
    outcomes = replay(trained, tmp_path / "out", grid=["method.coefficient=mask,constant"])
    for outcome in outcomes:
        parts = outcome["parts"]
        roles = [part["share"] for name, part in parts.items() if "/" not in name]
        assert sum(roles) == pytest.approx(1.0, abs=1e-5)
        agents = [part for name, part in parts.items() if name.startswith("agent/")]
        share = parts["agent"]["share"] if "agent" in parts else 0.0
        assert sum(part["share"] for part in agents) == pytest.approx(share, abs=1e-5)
        assert sum(part["tokens"] for part in agents) == outcome["metrics"]["tokens/agent"]
        if outcome["setting"] == "coefficient=mask":
            assert {part["norm"] for part in agents} <= {0.0}
            assert outcome["metrics"].get("weight/agent", 0.0) == 0.0
    taught = [o for o in outcomes if "policy" in o["parts"]]
    policy = {(o["optimizer_step"], o["setting"]): o["parts"]["policy"]["norm"] for o in taught}
    for update in {update for update, _ in policy}:  # coefficients share the policy's gradient
        assert policy[update, "coefficient=mask"] == policy[update, "coefficient=constant (as recorded)"]


def test_agents_tokens_behind_another_prompt_are_other_rows(tmp_path: Path) -> None:
    words = ["graph.options.solo=7", "method.agent_prompt=solo", "train.steps=1", "method.negative=same"]
    run = tiny_run.train(tiny_run.config(tmp_path / "tiny", *words))
    assert RunFolder(run).read_metrics()[0]["rows/exchanged"] > 0
    outcomes = replay(run, tmp_path / "out", grid=["method.agent_prompt=solo,own"])
    parts = {
        name: [o["parts"] for o in outcomes if f"agent_prompt={name}" in o["setting"]]
        for name in ("own", "solo")
    }
    for role in ("policy", "agent"):
        own, solo = (sum(part[role]["tokens"] for part in parts[name]) for name in ("own", "solo"))
        assert own == solo > 0


def test_a_grid_of_one_agents_coefficients(trained: Path, tmp_path: Path) -> None:
    grid = ["method.agents.verify.coefficient=mask,constant,pi"]
    outcomes = replay(trained, tmp_path / "out", grid=grid, steps=(0, 0))

    def norms(agent: str) -> list[list[float]]:
        by_setting: dict[str, list[float]] = {}
        for outcome in outcomes:
            by_setting.setdefault(outcome["setting"], []).append(outcome["parts"][f"agent/{agent}"]["norm"])
        return list(by_setting.values())

    as_recorded, masked, same, weaker = norms("verify")  # all agents' tokens weigh 1 as recorded
    assert masked == [0.0, 0.0]
    assert as_recorded == same and 0 < sum(weaker) < sum(same)
    assert norms("knowledge") == [norms("knowledge")[0]] * 4


def test_it_leaves_a_run_folder_with_numbers_and_figures(trained: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    out = tmp_path / "out"
    outcomes = replay(trained, out, grid=["method.coefficient=mask,floor"], steps=(2, 2))
    with (out / "loss.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["loss"]) for line in lines] == [o["loss"] for o in outcomes]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["replay_of"]["what"] == "loss"
    assert manifest["replay_of"]["path"] == str(trained.resolve())
    assert manifest["settings"] == ["as recorded", "coefficient=mask", "coefficient=floor"]
    shares, agents = report(out)["tables"]
    assert shares["columns"] == ["setting", "loss", "|∇|", "policy", "agent", "distilled", "|A|·w", "clip"]
    assert [row[0] for row in shares["rows"]] == manifest["settings"]
    assert agents["columns"] == ["setting", "knowledge", "verify"]
    assert report(out)["settings"]["steps"] == "2"
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_without_gradients_the_losses_are_the_same(trained: Path, tmp_path: Path) -> None:
    forward = replay(trained, tmp_path / "forward", gradients=False, steps=(1, 1))
    both = replay(trained, tmp_path / "both", steps=(1, 1))
    assert [o["loss"] for o in forward] == [o["loss"] for o in both]
    assert {o["grad_norm"] for o in forward} == {None}


def test_the_trained_weights_look_at_the_last_step(trained: Path, tmp_path: Path) -> None:
    outcomes = replay(trained, tmp_path / "out", checkpoint="model")
    assert [(o["step"], o["weights"], o["online"]) for o in outcomes] == [(2, "model", {})] * 2


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"checkpoint": "nowhere"}, RunError, "--checkpoint: got 'nowhere', allowed exact, nearest, start"),
        (
            {"grid": ["method.plan=independent"]},
            ConfigError,
            "got 'method.plan', allowed method.agent_prompt, ",
        ),
        ({"grid": ["method.coefficient=sum"]}, ConfigError, "coefficient: got .sum., allowed"),
        ({"grid": ["method.coefficient"]}, ConfigError, "--grid: got 'method.coefficient', allowed"),
        ({"grid": ["method.beta=0,1"], "overrides": ["method.beta=2"]}, ConfigError, "allowed each key once"),
        ({"steps": (7, 9)}, RunError, r"--steps: got \(7, 9\)"),
    ],
)
def test_a_mistake_is_said_by_name_and_takes_no_folder(
    trained: Path, tmp_path: Path, changes: dict, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        replay(trained, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_gradients_are_those_of_each_loss_by_itself() -> None:
    """y = (a, a·b); a = 2, b = 3: dy/d(a, b) = ((1, 0), (3, 2))."""
    a, b = (torch.nn.Parameter(torch.tensor(value)) for value in (2.0, 3.0))
    made = Gradients([a, b])
    for _ in range(2):
        y = torch.stack([a, a * b])[None]
        slopes = {"first": torch.tensor([[1.0, 0.0]]), "both": torch.tensor([[1.0, 1.0]])}
        made.add(y, {**slopes, "same": slopes["both"].clone(), "none": torch.zeros(1, 2)})
    assert made.of("first").tolist() == [2.0, 0.0]
    assert made.of("both").tolist() == [8.0, 4.0]
    assert made.of("same").tolist() == made.of("both").tolist()
    assert made.of("none") is None
    assert norm_of(made.of("first")) == 2.0
    assert share_of(made.of("first"), made.of("both")) == pytest.approx(16 / 80)
    assert share_of(None, made.of("both")) == 0.0
    assert share_of(made.of("first"), None) is None


def test_the_ratio_is_refused_where_agents_log_probs_were_not_recorded(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"log-probs of agent '\w+' by its own model: got none"):
        replay(trained, tmp_path / "out", grid=["method.coefficient=ratio"])
