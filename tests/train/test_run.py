"""Running a configuration: what is refused before it costs anything, and going on."""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from rich.console import Console
from tokenizers import Tokenizer

from aipo.config.build import Experiment, load_experiment
from aipo.config.build_policy import SyncedPolicy
from aipo.errors import ConfigError, LimitError, PolicyError, TrainError
from aipo.replay.questions.rerun import ReplaySource, check_traces
from aipo.rollout.env import Task
from aipo.rollout.run_limits import CostLimit
from aipo.run import RunFolder
from aipo.trace import Fault, Mode, Role
from aipo.trace.parquet_files import StepFiles
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStatsStore, positions
from aipo.util.imports import fingerprint
from envs.miniature import Miniature
from kit.recorded import replayed_losses
from kit.tiny_run import train

SMALL = [
    *("policy.options.steps=30", "train.tasks_per_step=2", "train.group_size=4", "train.minibatches=1"),
    *(
        "train.gradient_accumulation=1",
        "train.passes=1",
        "train.steps=2",
        "rollout.max_tokens=16",
        "run.threads=1",
    ),
]


def small(out: Path, *overrides: str) -> Experiment:
    """Advantages of both signs, agents to the end, and all kinds of tokens and rows are learned."""
    learned = ("method.coefficient=constant", "method.distil_weight=1")
    return load_experiment("mask", [f"run.out={out}", *SMALL, *learned, *overrides])


def replayed(folder: RunFolder, out: Path, *grid: str, **how: Any) -> Any:
    """The recorded setting's losses, and behind them those of the grid."""
    return replayed_losses(folder.path, out, grid=[*grid], gradients=False, **({"checkpoint": "start"} | how))


def check_replay(folder: RunFolder, *overrides: str) -> None:
    source = ReplaySource(path=folder.path, overrides=list(overrides))
    assert check_traces(source, Console(quiet=True)) == 0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_run_in_which_everything_fails_says_why_and_can_go_on(folder: RunFolder) -> None:
    # A part that has no weight fails its rollout, so nothing is left to learn from.
    with pytest.raises(TrainError, match=r"step 0: got 8 failed ones.*reward part: got 'correct'"):
        train(small(folder.path, "rollout.reward_weights={neatness: 1.0}"))
    kept = list(TraceStore(folder.traces).read())
    assert len(kept) == 8
    assert all(trace.failed and trace.reward is None for trace in kept)


def test_rollouts_that_a_broken_server_cut_short_are_kept_and_not_learned_from(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server came back in the second rollout step, and could not be given the weights."""
    looked: list[int] = []

    def check() -> None:
        looked.append(len(list(TraceStore(folder.traces).read())))
        if len(looked) == 2:
            raise PolicyError("weights of http://there: got other log-probs")

    open_policy = Experiment.open_policy

    @contextmanager
    def open_checked(*given: Any) -> Generator[SyncedPolicy]:
        with open_policy(*given) as sampler:
            yield sampler._replace(finish=check)

    monkeypatch.setattr(Experiment, "open_policy", open_checked)
    with pytest.raises(PolicyError, match="http://there"):
        train(small(folder.path))
    assert looked == [8, 16]
    assert len(list(TraceStore(folder.traces).read())) == 16
    assert [row["step"] for row in folder.read_metrics()] == [1]


class Counting(BaseChatModel):
    """An agent's model that tells what it read and wrote: 100 and 10 tokens."""

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("right", usage_metadata=usage))])


class Down(Counting):
    """An agent's model whose server is not there."""

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise OSError("nobody there")


ENGINES = Path(__file__).parents[1] / "kit" / "engines.py"
ASKING = [f"graph={{name: '{ENGINES}:asking'}}", "method.distil_weight=0"]
VERIFY = "agents={{verify: {{graph: 'graphs.verify:verify', model: '{}:{}', prices: {{input: 100, output: 1000}}}}}}"


def test_a_spending_limit_stops_the_run_and_it_goes_on_with_a_higher_one(folder: RunFolder) -> None:
    # Each assisted rollout asks once: 100 tokens of 0.0001 and 10 of 0.001 cost 0.02; 4 of 8 are assisted.
    config = [*ASKING, VERIFY.format(__file__, "Counting"), "rollout.concurrency=1", "train.save_every=1"]
    with pytest.raises(LimitError, match=r"spending on agents: got 0\.12, allowed less than 0\.11"):
        train(small(folder.path, *config, "rollout.cost_limit=0.11"))
    kept = [t for t in TraceStore(folder.traces).read() if t.visits and t.consults]
    assert len(kept) == 6
    assert all(call.cost == pytest.approx(0.02) for t in kept for v in t.visits for call in v.calls)
    with pytest.raises(LimitError, match=r"got 0\.12, allowed less than 0\.12 .*in the run"):
        train(small(folder.path, *config, "rollout.cost_limit=0.12"), resume=True)
    train(small(folder.path, *config, "rollout.cost_limit=5"), resume=True)
    # the two of step 1 that were done over were paid twice
    assert CostLimit(folder.spending, None, []).total == pytest.approx(0.20)
    assert sum(line.get("cost/verify", 0) for line in folder.read_metrics()) == pytest.approx(0.16)


def test_only_echo_learns_from_agents_where_all_are_equally_good(tmp_path: Path) -> None:
    """Rewards that are all 0: no advantage, and agents' tokens all the same."""
    equal = ["train.steps=1", "rollout.reward_weights.correct=0"]
    asked = [*ASKING, VERIFY.format(__file__, "Counting"), *equal]
    for preset, learned in (("mask", False), ("aipo_distil", False), ("aipo", False), ("echo", True)):
        out = tmp_path / preset
        train(load_experiment(preset, [f"run.out={out}", *SMALL, *asked]))
        (line,) = RunFolder(out).read_metrics()
        assert (line["reward/assisted"], line["zero_variance"]) == (0.0, 1.0)
        assert (line["tokens/agent"] > 0, line["grad_norm"] > 0) == (learned, learned), preset
        assert line.get("weight/agent", 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("preset", "modes"),
    [
        *((name, [Mode.SOLO] * 4) for name in ("dapo", "dr_grpo", "gspo", "cispo")),
        ("luffy", [Mode.SOLO] * 3 + [Mode.EXPERT]),
        ("sft", [Mode.EXPERT]),
        ("sft_traces", [Mode.ASSISTED] * 2 + [Mode.SOLO] * 2),
    ],
)
def test_baselines_train(folder: RunFolder, preset: str, modes: list[Mode]) -> None:
    words = [*SMALL, "train.minibatches=2", "rollout.max_tokens=24", f"train.group_size={len(modes)}"]
    train(load_experiment(preset, [f"run.out={folder.path}", *words]))
    assert [trace.mode for trace in TraceStore(folder.traces).read()] == modes * 4
    weights = [line["weight/agent"] for line in folder.read_metrics() if "weight/agent" in line]
    assert any(weights) == (Mode.EXPERT in modes)


def test_a_trained_policy_is_where_another_run_starts(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in ("sft", "grpo")]
    words = ["train.steps=1", "train.tasks_per_step=2", "train.minibatches=1", "rollout.max_tokens=24"]
    train(load_experiment("sft", ["policy.options.steps=30", f"run.out={folders[0].path}", *words]))
    second = ["train.group_size=2", f"policy.model={folders[0].model}", f"run.out={folders[1].path}"]
    train(load_experiment("grpo", [*words, *second]))
    assert json.loads(folders[1].manifest.read_text())["model"] == str(folders[0].model)


def test_agents_that_are_down_stop_the_run_and_it_goes_on_when_they_are_back(folder: RunFolder) -> None:
    many = ["train.tasks_per_step=16", VERIFY.format(__file__, "Down")]
    with pytest.raises(LimitError, match=r"got 32 of the last 32 \(verify 32 of 32\).*OSError: nobody there"):
        train(small(folder.path, *ASKING, *many))
    kept = list(TraceStore(folder.traces).read())
    assert sum(len(t.consults) for t in kept) >= 32
    assert {c.fault for t in kept for c in t.consults} == {Fault.UNAVAILABLE}
    train(small(folder.path, *ASKING, *many, "rollout.failure_limit=null"), resume=True)
    assert folder.read_metrics()[-1]["agent_failures/verify"] == 1.0


REFERENCE = "agents={{knowledge: {{graph: 'graphs.knowledge:knowledge', prompt: {}, model: 'aipo.rollout.reference_chat:reference', options: {{max_tokens: 6}}}}}}"


def test_the_initial_policy_is_an_agent_and_its_ratio_is_learned_and_replayed(
    folder: RunFolder, tmp_path: Path
) -> None:
    prompt = tmp_path / "knowledge.md"
    unused = "## formulate\n{{ request }}\n## condense\n{{ reply }}\n"
    prompt.write_text(unused + "## answer\n{{ request }}=")
    ratio = ("method.coefficient=ratio", "method.negative=same")
    train(small(folder.path, *ASKING, REFERENCE.format(prompt), *ratio))
    told = [s for t in TraceStore(folder.traces).read() for s in t.segments if s.role is Role.AGENT]
    assert len({tuple(s.token_ids.tolist()) for s in told}) > 1  # rollouts are told different things
    assert all(s.logprobs is not None and (s.logprobs < 0).all() for s in told)
    for line in folder.read_metrics():
        assert line["known/knowledge"] == 1.0
        assert 0 < line["weight/agent"] <= 2.0
    check_replay(folder, ASKING[0])
    ratio, mask, *_ = replayed(folder, tmp_path / "loss", "method.coefficient=ratio,mask")
    assert ratio["loss"] == pytest.approx(folder.read_metrics()[0]["loss"], abs=1e-6)
    assert (ratio["parts"]["agent"]["weight"] > 0, mask["parts"]["agent"]["weight"]) == (True, 0.0)


def test_demonstrations_are_trained_twice_kept_gone_on_with_and_replayed(
    folder: RunFolder, tmp_path: Path
) -> None:
    # A cold start this short is always wrong: every group has a demonstration that was right, and others.
    passes = ("train.passes=2", "train.minibatches=2")
    words = (
        "method.plan=expert",
        "method.coefficient_value=0.5",
        "train.save_every=1",
        "rollout.max_tokens=24",
        *passes,
    )
    train(small(folder.path, *words))
    store, stats, env = TraceStore(folder.traces), TokenStatsStore(folder.token_stats), Miniature()
    text = Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json")).decode
    first = list(store.read())
    assert "".join(t.mode.value[0] for t in first) == "aase" * 4  # 3 are sampled, of which 1.5 are assisted
    for trace in first[3::4]:
        prompt, shown = (text(s.token_ids.tolist(), skip_special_tokens=False) for s in trace.segments)
        assert prompt == trace.task["prompt"]
        assert shown == f"{env.demonstration(Task(**trace.task))}<eos>"
        assert trace.reward == 1.0 and (trace.advantage or 0) > 0
        count = len(trace.segments[1])
        for one in stats.of(trace.trace_id, trace.step):
            assert (one.weights_T.tolist(), one.codes_T.tolist()) == ([0.5] * count, [2] * count)
    steps = [sorted(one.optimizer_step for one in stats.of(t.trace_id, 1)) for t in store.read(1)]
    assert {tuple(of_row) for of_row in steps} == {(5, 7), (6, 8)}  # the same one of both passes

    lines = folder.read_metrics()
    assert [line["epoch"] for line in lines] == [n / 4 for n in range(1, 9)]
    assert [line.get("rollouts/expert") for line in lines] == [2, None, None, None] * 2
    assert lines[0]["ratio/policy"] == pytest.approx(1.0, abs=1e-4) != lines[2]["ratio/policy"]

    shutil.rmtree(folder.checkpoints / "checkpoint-8")
    train(small(folder.path, *words), resume=True)
    again = list(store.read())
    assert [(t.trace_id, t.seed, t.token_ids.tolist()) for t in again] == [
        (t.trace_id, t.seed, t.token_ids.tolist()) for t in first
    ]
    resumed = folder.read_metrics()
    assert [line["step"] for line in resumed] == [*range(1, 9)]
    losses = [line["loss"] for line in lines]
    assert [line["loss"] for line in resumed] == pytest.approx(losses, abs=1e-6)
    check_replay(folder)
    shown, *_ = replayed(folder, tmp_path / "loss", "method.coefficient_value=0.5,1")
    assert shown["loss"] == pytest.approx(losses[0], abs=1e-6)
    nearest, *_ = replayed(folder, tmp_path / "nearest", checkpoint="nearest", steps=(1, 1))
    assert (nearest["optimizer_step"], nearest["loss"]) == (5, pytest.approx(losses[4], abs=1e-6))


def test_going_on_without_a_checkpoint_begins_anew(folder: RunFolder) -> None:
    config = small(folder.path, "train.save_every=null")
    train(config)
    ids = [trace.trace_id for trace in TraceStore(folder.traces).read()]
    train(config, resume=True)
    assert sorted(trace.trace_id for trace in TraceStore(folder.traces).read()) == sorted(ids)
    kept = (folder.traces / "__superseded").glob("*.parquet.attempt-1")
    assert len(list(kept)) == 2  # what was there is kept beside


def test_a_run_keeps_its_tokenizer_a_users_coefficient_and_what_was_done_with_each_token(
    folder: RunFolder, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def steady(pi):\n    return 0 * pi + 0.25\n")
    words = (f"method.coefficient={file}:steady", "train.save_every=1")
    train(small(folder.path, *words))
    recorded = json.loads(folder.manifest.read_text())["files"]["coefficient"]
    assert recorded == {"file": str(file), "fingerprint": fingerprint(file)}
    tokenizer = Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json"))
    store, stats = TraceStore(folder.traces), TokenStatsStore(folder.token_stats)
    assert [file.step for file in StepFiles(folder.token_stats).files()] == [0, 1] == store.steps()
    (prompt, *_), asked = next((t.segments, t.task["prompt"]) for t in store.read())
    assert tokenizer.decode(prompt.token_ids.tolist()).endswith(asked)
    for trace in store.read():
        for one in stats.of(trace.trace_id, trace.step):
            assert one.advantage == trace.advantage != 0
            assert one.optimizer_step == trace.step + 1
            places = positions(one, [len(s) for s in trace.segments])
            assert len(places) == len(one)
            if one.kind == "sampled":
                assert places.tolist() == list(range(len(trace.segments[0]), len(trace.token_ids)))

    # Going on without them leaves none of the rollout steps that are done over.
    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    train(small(folder.path, *words, "train.token_stats=false"), resume=True)
    assert [file.step for file in StepFiles(folder.token_stats).files()] == [0]
    assert store.steps() == [0, 1]


def test_rows_of_a_served_policy_are_scored_again() -> None:
    assert load_experiment("aipo_distil", ["policy.engine=vllm"]).scores_again
    assert not load_experiment("aipo_distil").scores_again
    assert load_experiment("aipo_distil", ["method.max_mismatch=0.1"]).scores_again


def test_a_run_that_a_limit_on_the_mismatch_stopped_goes_on_under_another(folder: RunFolder) -> None:
    """Decoding with a cache differs from a forward pass by float rounding, which is more than 1e-12."""
    # With a KL term rows are trained whatever their advantage.
    words = ("train.minibatches=2", "train.save_every=1", "method.beta=0.01")
    with pytest.raises(TrainError, match=r"in optimizer step 1: got a mean .* allowed 1e-12"):
        train(small(folder.path, "method.max_mismatch=1e-12", *words))
    assert TraceStore(folder.traces).steps() == [0]  # what was sampled is kept
    train(small(folder.path, "method.max_mismatch=1e-4", *words), resume=True)
    lines = folder.read_metrics()
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 < line["mismatch/mean"] < 1e-4 for line in lines)


def test_going_on_with_other_settings_is_refused(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.config.write_text(before := small(folder.path).to_yaml())
    says = r"got method\.coefficient: 'pi', was 'constant'; train\.learning_rate: 0\.001, was"
    changes = ("method.coefficient=pi", "train.learning_rate=1e-3", "run.threads=2")
    with pytest.raises(ConfigError, match=says):
        train(small(folder.path, *changes), resume=True)
    assert folder.config.read_text() == before
