"""What is refused before anything is made, and that a start that fails is not in the way of the next."""

import builtins
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from rich.console import Console

import envs.miniature.model
from aipo.config.build import load_experiment
from aipo.config.schema import Config
from aipo.errors import AipoError, ConfigError, LoadError, RunError
from aipo.evaluate.run import evaluate_folder
from aipo.run import RunFolder
from aipo.train.ranks import join
from aipo.train.schedule import check_trackers
from aipo.util.output import escape_unencodable
from envs.miniature.model import cold_start
from kit import tiny_run


def numbers(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting that may be a float."""
    for name, field in section.model_fields.items():
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        sections = [t for t in inner if issubclass(t, BaseModel)]
        key = f"{prefix}{name.removesuffix('_config')}"
        if "float" in str(field.annotation):
            yield key
        for one in sections if name != "agents" else ():
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
        load_experiment("aipo", [f"{key}={value}"])


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
        load_experiment("aipo", [override])


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--print", "--model", "x", "--cache", "inf"],
        ["export", "x", "--min-reward", "nan"],
        ["export", "x", "--margin", "inf"],
    ],
)
def test_so_are_those_of_commands(arguments: list[str]) -> None:
    ended = subprocess.run([sys.executable, "-m", "aipo.cli", *arguments], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "allowed a finite number" in ended.stderr


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tiny" / "run"


def refused(folder: Path, says: str, *words: str, error: type[Exception] = ConfigError) -> None:
    with pytest.raises(error, match=says):
        tiny_run.train(tiny_run.config(folder / "tiny", *words))
    assert not (folder / "tiny" / "run").exists()


NO_GPU = r"policy\.device: got 'cuda' where torch .* sees no GPU, allowed 'cpu' or null"


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(tmp_path, NO_GPU, "policy.device=cuda")
    with pytest.raises(ConfigError, match=NO_GPU):
        words = [f"run.out={tmp_path / 'start'}", "policy.device=cuda"]
        evaluate_folder(None, "aipo", words, name="eval", console=Console(file=io.StringIO()))
    assert not (tmp_path / "start").exists()
    with pytest.raises(
        ConfigError, match="device of the miniature's policy: got 'cuda' where torch sees no GPU"
    ):
        cold_start(device="cuda", cache=tmp_path)


def test_an_adapter_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(tmp_path, r"policy\.lora: got an environment without peft", "policy.lora={}", error=LoadError)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            "[nowhere]",
            r"run\.report_to: got 'nowhere', allowed some of \['azure_ml', .*'wandb'\], or none: \[\]",
        ),
        (
            "[tensorboard]",
            r"run\.report_to: got 'tensorboard', which cannot be used here \(RuntimeError: Tensor",
        ),
        ("[clearml]", r"run\.report_to: got 'clearml', which cannot be used here"),
        ("[all, wandb]", r"run\.report_to: got 'all', allowed some of"),
    ],
)
def test_a_tracker_that_is_not_there(
    tmp_path: Path, names: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    integrations = "transformers.integrations.integration_utils"
    for package in ("tensorboard", "clearml"):
        monkeypatch.setattr(f"{integrations}.is_{package}_available", lambda: False)
    refused(tmp_path, says, f"run.report_to={names}")


def test_trackers_that_need_nothing() -> None:
    check_trackers([])
    check_trackers(["none"])
    check_trackers(["all"])


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            r"got --mixed_precision bf16, allowed no: .*\(train\.autocast=true\)",
        ),
        ("ACCELERATE_MIXED_PRECISION", "fp16", r"got --mixed_precision fp16, allowed no: "),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", r"got --dynamo_backend inductor, allowed no$"),
    ],
)
def test_what_a_launcher_decides(
    tmp_path: Path, variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    refused(tmp_path, says)
    monkeypatch.setenv(variable, "no")
    assert join(cpu=True).size == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert join(cpu=True, autocast=True).size == 1


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


def test_a_start_that_fails_leaves_no_folder(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the folder was taken: the policy cannot be sampled from."""
    words = ["policy.model=/nowhere", "train.steps=1"]
    refused(tmp_path, r"policy\.model: got '/nowhere'", *words, error=LoadError)
    out.mkdir()
    with pytest.raises(LoadError):
        tiny_run.train(tiny_run.config(out.parent, *words))
    assert [*out.iterdir()] == []  # the user's own folder stays
    with monkeypatch.context() as broken, pytest.raises(AipoError, match="no room"):
        broken.setattr("aipo.train.trainer.AIPOTrainer.__init__", raising(RunError("no room")))
        tiny_run.train(tiny_run.config(out.parent, "train.steps=1"))
    assert [*out.iterdir()] == []
    assert tiny_run.train(tiny_run.config(out.parent, "train.steps=1")) == out  # and the next start succeeds


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


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
        told = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from pathlib import Path; from aipo.util.files import busy; print(busy(Path({str(out)!r})))",
            ],
            capture_output=True,
            text=True,
        )
        assert told.stdout == "True\n"


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


class Ascii(io.TextIOWrapper):
    """A terminal of another age."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)

    @property
    def written(self) -> bytes:
        return self.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_without_unicode_shows_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Ascii()
    monkeypatch.setattr(sys, "stdout", out)
    escape_unencodable()
    print("a–b 𝔸 \ud800")
    assert out.written == rb"a\u2013b \ud835\udd38 \ud800" + b"\n"


def test_a_command_for_such_a_terminal(tmp_path: Path) -> None:
    recorded = Path(__file__).parents[1] / "kit" / "run_before"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C"}
    for arguments in (
        ["traces", str(recorded)],
        ["traces", str(recorded), "--json"],
        ["graph", "consult"],
        ["--help"],
    ):
        command = [sys.executable, "-m", "aipo.cli", *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.decode("ascii")
