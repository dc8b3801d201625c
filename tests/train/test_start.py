"""A start that fails is not in the way of the next, and leaves what was there."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import pytest
from pydantic import BaseModel

import envs.miniature.model
from aipo.config.build import load_experiment
from aipo.config.schema import Config
from aipo.errors import AipoError, ConfigError, LoadError, RunError
from aipo.run import RunFolder
from aipo.util.files import busy
from aipo.util.output import secure_streams
from envs.miniature.model import cold_start
from kit import tiny_run
from kit.commands import aipo

RECORDED = Path(__file__).parents[1] / "kit" / "run_before"


def numbers(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting that may be a float."""
    for name, field in section.model_fields.items():
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        sections = [t for t in inner if issubclass(t, BaseModel)]
        key = f"{prefix}{name.removesuffix('_config')}"
        if "float" in str(field.annotation):
            yield key
        for one in sections if name not in ("agents", "policies") else ():
            yield from numbers(one, f"{key}.")


NUMBERS = [*numbers(Config), "agents.verify.timeout", "agents.verify.deadline"]


def test_there_are_many_numbers() -> None:
    assert {"train.learning_rate", "rollout.temperature", "method.beta", "policy.vllm.deadline"} < {*NUMBERS}
    assert len(NUMBERS) > 25


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "inf", "nan", "1e400"])
def test_every_number_is_finite(key: str, value: str) -> None:
    if key in ("env.mixture", "rollout.reward_weights"):
        value = f"{{correct: {value}}}"
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_experiment("aipo_distil", [f"{key}={value}"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("env.options={size: .inf}", r"env\.options\.size: got inf, allowed finite numbers"),
        ("agents.verify.options.error_rate=.nan", r"agents\.verify\.options\.error_rate: got nan"),
        ("policy.options.rates=[1, -.inf]", r"policy\.options\.rates\.1: got -inf"),
        ("run.seed=4294967296", r"run\.seed: Input should be less than 4294967296, got 4294967296"),
    ],
)
def test_so_are_those_of_options(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_experiment("aipo_distil", [override])


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--print", "--model", "x", "--cache", "inf"],
        ["export", "x", "--min-reward", "nan"],
        ["export", "x", "--margin", "inf"],
    ],
)
def test_so_are_those_of_commands(arguments: list[str]) -> None:
    ended = aipo(*arguments)
    assert ended.returncode == 2
    assert "allowed a finite number" in ended.stderr


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tiny" / "run"


def test_what_is_computed_in_bfloat16_is_sampled_in_bfloat16(tmp_path: Path) -> None:
    """One forward pass of the trainer against many small ones: both are rounded to three digits."""
    words = ("train.autocast=true", "train.steps=1", "method.max_mismatch=0.05")
    run = RunFolder(tiny_run.train(tiny_run.config(tmp_path / "tiny", *words)))
    first, _ = run.read_metrics()
    assert 1e-5 < first["mismatch/mean"] < 0.05


def test_a_cache_that_cannot_be_written_is_told_before_minutes_are_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(envs.miniature.model, "_fit", lambda *_: pytest.fail("trained"))
    says = r"cache of the miniature's policy \(XDG_CACHE_HOME names another one\): got .*, in /dev/null/"
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    with pytest.raises(RunError, match=f"{says}cache/aipo"):
        cold_start()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/dev/null/home")
    with pytest.raises(RunError, match=rf"{says}home/\.cache/aipo"):
        cold_start()


@pytest.mark.parametrize("path", ["/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, path: str) -> None:
    with pytest.raises(RunError, match=rf"run\.out: got .* that can be written, in {path}"):
        tiny_run.train(tiny_run.config(tmp_path / "tiny", f"run.out={path}"))


@pytest.mark.parametrize("there", [False, True])
def test_a_start_that_fails_leaves_no_folder(out: Path, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the folder was taken; one that the user has made stays, empty."""
    experiment = tiny_run.config(out.parent, "train.steps=1")
    if there:
        out.mkdir()
    with monkeypatch.context() as broken, pytest.raises(RunError, match="no room"):
        broken.setattr("aipo.train.trainer.AIPOTrainer.__init__", Mock(side_effect=RunError("no room")))
        tiny_run.train(experiment)
    assert out.is_dir() == there and not any(out.glob("*"))
    assert tiny_run.train(experiment) == out  # and the next start succeeds


def test_what_was_earned_stays(tmp_path: Path, out: Path) -> None:
    with pytest.raises(AipoError, match="NaN or infinity"):
        tiny_run.train(tiny_run.config(out.parent, "train.learning_rate=1e300"))
    assert list((out / "traces").glob("*.parquet"))
    with pytest.raises(RunError, match="is not empty"):
        tiny_run.train(tiny_run.config(out.parent))


def test_a_failed_resume_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("x")
    with pytest.raises(RunError, match="no room"), RunFolder.taken(folder, resume=True):
        raise RunError("no room")
    assert (folder / "config.yaml").read_text() == "x"


@pytest.mark.parametrize("mine", [".env", ".git/objects/a", ".venv/bin/python", ".lock.d/x"])
def test_a_start_that_fails_leaves_what_was_there(out: Path, mine: str) -> None:
    (out / mine).parent.mkdir(parents=True)
    (out / mine).write_text("mine")
    (out / "notes").mkdir()
    with pytest.raises(LoadError), RunFolder.taken(out) as folder:
        for made in (folder.config, folder.traces / "part", folder.tokenizer / "tokenizer.json"):
            made.parent.mkdir(exist_ok=True)
            made.write_text("" if made.parent == folder.traces else "x")
        raise LoadError("no such model")
    assert [path for path in out.rglob("*") if path.is_file()] == [out / mine]
    assert (out / mine).read_text() == "mine" and (out / "notes").is_dir()


def test_a_second_start_leaves_the_first_alone(out: Path) -> None:
    with RunFolder.taken(out) as folder:
        (out / ".tokenizer.draft").mkdir()
        with pytest.raises(RunError, match="which another process is writing"), RunFolder.taken(out):
            pass
        folder.config.write_text("x")
        with pytest.raises(RunError, match="which is not empty"), RunFolder.taken(out):
            pass
        assert sorted(path.name for path in out.iterdir()) == [".lock", ".tokenizer.draft", "config.yaml"]
        assert busy(out)


def test_a_start_after_another_run_that_ended_meanwhile_is_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has written its run, and let go, between the first look and the lock."""
    out.mkdir(parents=True)
    (out / "config.yaml").write_text("theirs")
    monkeypatch.setattr(RunFolder, "create", lambda path, resume: RunFolder(path))
    with pytest.raises(RunError, match="which is not empty"), RunFolder.taken(out):
        pass
    assert (out / "config.yaml").read_text() == "theirs"


def test_a_terminal_without_unicode_shows_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    secure_streams()
    print("a–b 𝔸 \ud800")
    assert written.getvalue() == rb"a\u2013b \ud835\udd38 \ud800" + b"\n"


@pytest.mark.parametrize(
    "words", [["traces", RECORDED], ["traces", RECORDED, "--json"], ["graph", "consult"], ["--help"]]
)
def test_a_command_for_such_a_terminal(words: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PYTHONIOENCODING": "ascii", "LANG": "C"}.items():
        monkeypatch.setenv(name, value)
    ended = aipo(*words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout and ended.stdout.isascii()
