"""A matrix file: what is made of it, and what is refused before anything runs."""

import re
from pathlib import Path

import pytest

from aipo.compare.jobs import train_job
from aipo.compare.matrix import Matrix, Measure, read_matrix
from aipo.errors import ConfigError
from kit.matrices import matrix_file

HEAD = "seeds: [10, 11]\nset: [run.threads=1, train.steps=3]\n"
ARMS = """
reference: aipo
arms:
  grpo: {config: grpo}
  aipo: {config: aipo, set: [train.steps=4]}
  twice: {stages: [{config: mask}, {config: grpo, set: [train.learning_rate=1.0e-4]}]}
"""


def read(folder: Path, text: str) -> Matrix:
    return read_matrix(matrix_file(folder, text))


def test_every_arm_runs_with_every_seed(tmp_path: Path) -> None:
    matrix = read(tmp_path, HEAD + ARMS)
    names = [f"{arm} {seed}" for seed in (10, 11) for arm in ("grpo", "aipo", "twice")]
    assert [cell.name for cell in matrix.cells] == names
    experiment = matrix.cell("aipo", 11).stages[0].experiment
    assert (experiment.seed, experiment.threads, experiment.train.steps) == (11, 1, 4)
    assert experiment.out == tmp_path / "out" / "aipo" / "11"
    assert matrix.cell("grpo", 11).stages[0].experiment.train.steps == 3
    assert (matrix.arms, matrix.reference) == (("grpo", "aipo", "twice"), "aipo")


def test_a_stage_starts_from_the_model_of_the_one_before(tmp_path: Path) -> None:
    first, last = read(tmp_path, HEAD + ARMS).cell("twice", 10).stages
    out = tmp_path / "out" / "twice"
    assert (first.folder.path, last.folder.path) == (out / "10.1", out / "10")
    assert first.experiment.policy.model == "envs.miniature.model:cold_start"
    assert last.experiment.policy.model == str(out / "10.1" / "model")
    assert last.experiment.train.learning_rate == 1e-4 and first.experiment.method.assist_share == 0.5


def test_all_arms_start_from_the_warm_up_of_their_seed(tmp_path: Path) -> None:
    matrix = read(tmp_path, HEAD + "warmup: {config: aipo_distil, set: [warmup.steps=2]}" + ARMS)
    out = tmp_path / "out"
    assert [cell.folder.path for cell in matrix.warmups.values()] == [
        out / "warmup" / "10",
        out / "warmup" / "11",
    ]
    begun = {cell.stages[0].experiment.policy.model for cell in matrix.cells if cell.seed == 11}
    assert begun == {str(out / "warmup" / "11" / "model")}
    assert matrix.before[11].stages[0].experiment.policy.model == str(out / "warmup" / "11" / "model")
    (stage,) = matrix.warmups[10].stages
    assert stage.experiment.policy.model == "envs.miniature.model:cold_start"
    assert (stage.experiment.train.steps, stage.experiment.seed, stage.done) == (2, 10, False)
    assert not read(tmp_path, HEAD + ARMS).warmups
    arm = "arms: {warmup: {config: grpo}}"
    with pytest.raises(ConfigError, match=r"arms: got 'warmup', allowed letters.* not 'before' or 'warmup'"):
        read(tmp_path, HEAD + "warmup: {config: aipo_distil}\n" + arm)
    (command,) = train_job(read(tmp_path, HEAD + arm).cells[0]).commands  # an arm like any other
    assert command[:2] == ["train", "--evaluate"]


def test_a_run_that_begins_from_another_has_no_model_of_its_own(tmp_path: Path) -> None:
    own = "{config: grpo, set: [policy.model=mine]}"
    assert (
        read(tmp_path, f"seeds: [1]\narms: {{grpo: {own}}}").cells[0].stages[0].experiment.policy.model
        == "mine"
    )
    warm = f"seeds: [1]\nwarmup: {{config: aipo_distil}}\narms: {{grpo: {own}}}"
    staged = f"seeds: [1]\narms: {{grpo: {{stages: [{{config: sft}}, {own}]}}}}"
    for text in (warm, staged):
        with pytest.raises(ConfigError, match=r"got .policy\.model=mine., allowed no model of its own"):
            read(tmp_path, text)


def test_what_is_measured_comes_from_the_arms(tmp_path: Path) -> None:
    matrix = read(tmp_path, HEAD + ARMS)
    assert matrix.measure == Measure(split="heldout", setting="solo", k=1)
    assert len(matrix.measures) == 2 * 3 * 4
    chosen = read(tmp_path, HEAD + "measure: {split: easy, setting: suppressed, k: 8}" + ARMS)
    assert chosen.measure == Measure(split="easy", setting="suppressed", k=8)


def test_the_policy_before_is_the_references(tmp_path: Path) -> None:
    matrix = read(tmp_path, HEAD + ARMS)
    assert list(matrix.before) == [10, 11]
    assert matrix.before[11].folder.path == tmp_path / "out" / "before" / "11"
    assert matrix.before[11].stages[0].experiment.seed == 11
    assert read(tmp_path, HEAD + "arms: {only: {config: grpo}}").reference == "only"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD, "arms: is missing"),
        (ARMS, "seeds: is missing"),
        ("[1, 2]", "matrix"),
        (HEAD + ARMS + "sead: [1]", "sead: unknown key; did you mean 'seeds'?"),
        ("seeds: []\narms: {a: {config: grpo}}", "seeds: Tuple should have at least 1 item"),
        ("seeds: [true, 1]\narms: {a: {config: grpo}}", "seeds.0: Input should be a valid integer"),
        ("seeds: [1, 1]\narms: {a: {config: grpo}}", "seeds: got [1, 1], allowed each seed once"),
        (HEAD + "reference: b\narms: {a: {config: grpo}}", "reference: got 'b', allowed one of ['a']"),
        (HEAD + "measure: {split: nowhere}\narms: {a: {config: grpo}}", "measure: got split nowhere"),
        (HEAD + "measure: {k: 3}\narms: {a: {config: grpo}}", "and k 3, allowed what the arms'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(tmp_path, text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ("", "arms: Dictionary should have at least 1 item"),
        ("a: {confg: grpo}", "did you mean 'arms.a.config'?"),
        ("a: {stages: [{config: grpo, sets: []}]}", "did you mean 'arms.a.stages.0.set'?"),
        ("a: {config: grppo}", "arm 'a': configuration: got 'grppo', allowed a YAML file"),
        ("a: {config: grpo}, a: {config: aipo}", "got ['a'] more than once, allowed each key once"),
        ("before: {config: grpo}", "arms: got 'before', allowed letters, digits, - and _"),
        ("a/b: {config: grpo}", "arms: got 'a/b', allowed letters, digits, - and _"),
        ("a: {config: grpo, set: [train.stepps=1]}", "did you mean 'train.steps'?"),
        ("a: {config: grpo, set: [train.steps]}", "override: got 'train.steps'"),
        ("a: {config: grpo, set: [run.seed=3]}", "got 'run.seed=3', allowed every key but"),
        ("a: {set: [train.steps=3]}", "got both or neither, allowed `config` with `set`"),
        ("a: {config: grpo, stages: [{config: grpo}]}", "got both or neither"),
        ("a: {config: grpo, set: ['evaluate.splits=[]']}", "got arms that evaluate nothing"),
    ],
)
def test_arms_that_are_wrong(tmp_path: Path, arms: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(tmp_path, f"{HEAD}arms: {{{arms}}}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("evaluate.samples=16", "allowed the same tasks, sampled alike, in every arm"),
        ("rollout.temperature=0.1", "got rollout.temperature 1.0 in"),
        ("rollout.max_tokens=9", "max_tokens 128"),
        ("agents.verify=null", "whose tags are not suppressed alike, allowed evaluate.settings without suppressed"),
    ],
)  # fmt: skip
def test_arms_that_cannot_be_paired(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(tmp_path, f"{HEAD}arms: {{a: {{config: aipo}}, b: {{config: aipo, set: [{change}]}}}}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    says = r"matrix: got .*none\.yaml', allowed a YAML file with out, seeds and arms"
    with pytest.raises(ConfigError, match=says):
        read_matrix(tmp_path / "none.yaml")


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("matrix_*.yaml")), ids=lambda file: file.stem)
def test_the_matrices_of_the_benchmarks_are_whole(file: Path) -> None:
    matrix = read_matrix(file)
    assert matrix.out == Path("runs") / file.stem
    tuned_on = set(matrix.seeds) & {0, 1, 2}
    assert tuned_on == (set(matrix.seeds) if file.stem in {"matrix_tune", "matrix_credit"} else set())
    assert all(cell.stages[0].experiment.threads == 1 for cell in matrix.cells)


def test_screening_and_the_final_comparison_share_no_seed() -> None:
    screen, final = (read_matrix(BENCHMARKS / f"matrix_{name}.yaml") for name in ("screen", "final"))
    assert not set(screen.seeds) & set(final.seeds) and len(final.seeds) >= 8


PEERS = """
seeds: [10]
set: ["evaluate.ks=[1, 4]"]
arms:
  alone: {config: ilr, set: ["policies={}", method.abilities.split=null, policy.options.side=left]}
  left: {config: ilr, policy: left}
"""


def test_of_policies_that_learn_together_one_counts(tmp_path: Path) -> None:
    cell = read(tmp_path, PEERS).cell("left", 10)
    run = tmp_path / "out" / "left" / "10"
    assert (cell.stages[0].run.path, cell.folder.path) == (run, run / "policies" / "left")
    assert cell.log == tmp_path / "out" / "left" / "10.log"
    [command] = train_job(cell).commands
    assert "--resume" not in command and f'run.out="{run}"' in command


def test_an_arm_of_several_policies_can_be_the_reference(tmp_path: Path) -> None:
    [stage] = read(tmp_path, PEERS.replace("arms:", "reference: left\narms:")).before[10].stages
    assert (stage.experiment.peers, stage.experiment.policy.options) == ((), {"side": "left"})


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("", r"policies: got \['left', 'right'\] with a comparison without `policy`"),
        (", policy: middle", r"policy: got 'middle', allowed \['left', 'right'\], those of `policies`"),
    ],
)
def test_an_arm_of_several_policies_says_which_counts(tmp_path: Path, policy: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, PEERS.replace(", policy: left", policy))
