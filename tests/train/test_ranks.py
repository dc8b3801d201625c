"""Two processes on CPUs train what one trains: the same loss, metrics, lessons and weights, traces once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, OtherRankError, TrainError
from aipo.trace.store import TraceStore
from aipo.train.ranks import SINGLE_PROCESS, Ranks, join
from aipo.train.run import train_run
from kit.ranks import CASES, SHARDED
from kit.servers import free_port
from kit.tiny import chat_tokenizer, qwen2
from kit.training import lines

HERE = Path(__file__).parents[1] / "kit"


def launch(*command: str, ranks: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs python on a script or module, by accelerate's launcher if there are several ranks."""
    several = f"-m accelerate.commands.launch --multi_gpu --num_processes {ranks} --num_machines 1".split()
    several += f"--mixed_precision no --dynamo_backend no --main_process_port {free_port()}".split()
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"} if ranks > 1 else {}
    return subprocess.run(
        [sys.executable, *(several if ranks > 1 else []), *command],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), **own, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


# -- the trainer, on given rows --------------------------------------------------------------------------


def left(kind: str, folders: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of ranks: what `kit/ranks.py` left."""
    by_ranks = {n: folders.mktemp(f"{kind}-{n}") for n in (1, 2)}
    for ranks, folder in by_ranks.items():
        done = launch(str(HERE / "ranks.py"), kind, str(folder), ranks=ranks)
        assert done.returncode == 0, done.stderr
    return by_ranks


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return left("whole", tmp_path_factory)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One rank has whole weights."""
    return left("sharded", tmp_path_factory)


def check_metrics(folders: dict[int, Path], case: str, rel: float, abs: float) -> None:
    one, two = (lines(folders[n] / case) for n in (1, 2))
    assert any(line["loss"] != 0 for line in one)
    for a, b in zip(one, two, strict=True):
        timeless = {name: value for name, value in a.items() if name != "step_time"}
        assert {k: v for k, v in b.items() if k != "step_time"} == pytest.approx(timeless, rel=rel, abs=abs)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_metrics_weights_and_token_stats_of_one(whole: dict[int, Path], case: str) -> None:
    """Rank 0 writes down what every rank did with its rows."""
    check_metrics(whole, case, rel=1e-5, abs=1e-6)
    one, two = (torch.load(whole[n] / case / "trained.pt") for n in (1, 2))
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=2e-6)
    assert len(one["token_stats"]) >= 12
    assert two["token_stats"].keys() == one["token_stats"].keys()
    for which, stats in one["token_stats"].items():
        for mine, theirs in zip(two["token_stats"][which], stats, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("case", SHARDED)
def test_sharded_weights_are_trained_and_saved_as_whole_ones(sharded: dict[int, Path], case: str) -> None:
    check_metrics(sharded, case, rel=1e-4, abs=1e-5)
    one, two = (load_file(sharded[n] / case / "model" / "model.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", SHARDED)
def test_rank_0_has_all_newest_weights_when_it_makes_rows(sharded: dict[int, Path], case: str) -> None:
    """Their sums, before each rollout step and after the last."""
    one, two = (torch.load(sharded[n] / case / "seen.pt")["gathered"] for n in (1, 2))
    assert len(set(one)) == 3
    assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("case", [case for case in SHARDED if "autocast" in case])
def test_sharded_gradients_add_up_in_parts_and_in_float32(sharded: dict[int, Path], case: str) -> None:
    """Not as whole ones, nor in the bfloat16 that is computed in, where 1.0 added 384 times is 256; and no rank
    keeps bfloat16 copies of weights that it does not hold."""
    one, two = (torch.load(sharded[n] / case / "seen.pt") for n in (1, 2))
    assert (one["gradients"], two["gradients"]) == ({"Tensor of torch.float32"}, {"DTensor of torch.float32"})
    assert (one["kept"], two["kept"]) == (True, False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "engine: got local and weights that are sharded over processes, allowed vllm"),
        (["policy.engine=vllm", "policy.vllm.sync=nccl"], "sync: got nccl and weights that are sharded"),
    ],
)
def test_what_needs_whole_weights_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.setattr("aipo.train.run.join", lambda *, cpu, autocast: Ranks(sharded=True))
    config = load_experiment("aipo_distil", [f"run.out={tmp_path / 'run'}", *words])
    with pytest.raises(ConfigError, match=says):
        train_run(config, resume=False, evaluate_after=False, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_sharded_rows_of_tags_beside_an_adapter_need_an_output_layer_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aipo.train.run.join", lambda *, cpu, autocast: Ranks(sharded=True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    qwen2(264, num_hidden_layers=1, tie_word_embeddings=True).save_pretrained(tmp_path / "m")
    chat_tokenizer().inner.save_pretrained(tmp_path / "m")
    words = ["policy.engine=vllm", "policy.vllm.sync=disk", "policy.lora={rank: 2}", "policy.add_tags=true"]
    config = load_experiment(
        "aipo_distil", [f"run.out={tmp_path / 'run'}", f"policy.model={tmp_path / 'm'}", *words]
    )
    with pytest.raises(
        ConfigError, match=r"add_tags: got true with policy\.lora and weights that are sharded"
    ):
        train_run(config, resume=False, evaluate_after=False, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


# -- aipo train ------------------------------------------------------------------------------------------

ROLLOUTS = 2 * 4
RUN = [
    *("policy.options.steps=60", "policy.device=cpu", "rollout.max_tokens=12", "run.threads=1"),
    *(f"env.name={HERE / 'engines.py'}:Coin", "env.mixture={coin: 1.0}", "evaluate.splits=[coin]"),
    *("train.tasks_per_step=2", "train.group_size=4", "train.minibatches=1", "train.gradient_accumulation=2"),
    *("train.steps=3", "train.passes=1", "train.save_every=1", "train.learning_rate=1e-4", "train.decay=0"),
]


def train(out: Path, *more: str, ranks: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return launch(
        *("-m", "aipo.cli", "train", "--config", "aipo_distil", f"run.out={out}", *RUN, *more),
        ranks=ranks,
        **environment,
    )


def test_a_run_of_two_ranks_fails_as_one_and_goes_on_to_where_one_process_gets(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    done = train(alone, ranks=1)
    assert done.returncode == 0, done.stderr

    # The scorer breaks in the last generation, of which rank 1 sees nothing.
    broken = train(together, ranks=2, COIN_FAILS_AFTER=str(2 * ROLLOUTS))
    assert broken.returncode != 0
    told = re.findall(r"TrainError: rollouts of step 2: got 8 failed ones", broken.stderr)
    assert len(told) == 1, broken.stderr
    assert 'Traceback (most recent call last):\n  File "' + str(HERE.parents[1] / "aipo") not in broken.stderr
    assert not (together / "model").exists()

    resumed = train(together, "--resume", ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("run folder") == 1
    assert resumed.stdout.count("from checkpoint-2, step 2") == 1

    traces = [list(TraceStore(run / "traces").read()) for run in (alone, together)]
    texts = [[[s.token_ids.tolist() for s in t.segments] for t in own] for own in traces]
    assert len(traces[0]) == 3 * ROLLOUTS
    assert len({trace.trace_id for trace in traces[1]}) == len(traces[1])
    assert texts[0] == texts[1]
    assert len({trace.reward for trace in traces[0]}) > 2
    first, other = (load_file(run / "model" / "model.safetensors") for run in (alone, together))
    for name, weight in first.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-5)
    files = {path.name for path in together.iterdir()} - {".lock"}
    assert files == {path.name for path in alone.iterdir()} - {".lock"}


def test_only_training_is_for_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    from aipo.cli import app

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"processes: got 2 of `aipo eval`, allowed one; only `aipo train`"):
        app(["eval"], standalone_mode=False)


# -- ranks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "got FSDP 1, allowed data parallelism"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "got DeepSpeed, allowed data parallelism"),
        # accelerate would not, without a word
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
            r"got sharded weights \(FSDP 2\) on CPUs, allowed on GPUs",
        ),
    ],
)
def test_other_ways_of_sharing_weights_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"accelerate launch: {says}"):
        join(cpu=True)


def test_one_process_waits_for_nobody() -> None:
    def fail() -> None:
        raise TrainError("as it was")

    assert join(cpu=True) is SINGLE_PROCESS
    assert SINGLE_PROCESS.broadcast(lambda: 3) == SINGLE_PROCESS.on_main(lambda: 3) == 3
    assert SINGLE_PROCESS.gather([1, 2]) == [1, 2]
    assert SINGLE_PROCESS.stack(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]
    with pytest.raises(TrainError, match="as it was"):
        SINGLE_PROCESS.on_main(fail)
    error = TrainError("everybody's")
    assert SINGLE_PROCESS.same_error(error) is error


def test_other_ranks_leave_the_telling_to_rank_0() -> None:
    assert isinstance(Ranks(rank=1, size=2).same_error(TrainError("everybody's")), OtherRankError)
