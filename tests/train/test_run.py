"""Running a configuration: what is refused before it costs anything, and going on."""

import io
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
from aipo.errors import ConfigError, LimitError, LoadError, PolicyError, TaskError, TrainError
from aipo.replay.questions.loss import replay_loss
from aipo.replay.questions.rerun import ReplaySource, check_traces
from aipo.rollout.env import Task
from aipo.rollout.run_limits import CostLimit
from aipo.run import RunFolder
from aipo.trace import Fault, Mode, Role
from aipo.trace.parquet_files import StepFiles
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStatsStore, positions
from aipo.train.run import train_run
from aipo.util.imports import fingerprint
from envs.miniature import Miniature

SMALL = [
    "policy.options.steps=30",
    "train.tasks_per_step=2",
    "train.group_size=4",
    "train.minibatches=1",
    "train.gradient_accumulation=1",
    "train.steps=2",
    "rollout.max_tokens=16",
    "run.threads=1",
]


def small(out: Path, *overrides: str) -> Experiment:
    """Advantages of both signs, agents to the end, and all kinds of tokens and rows are learned."""
    learned = ("method.coefficient=constant", "method.distil_weight=1")
    return load_experiment("mask", [f"run.out={out}", *SMALL, *learned, *overrides])


def train(config: Experiment, *, resume: bool = False) -> None:
    train_run(config, resume=resume, evaluate_after=False, console=Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "env.mixture={easy_train: 0.5, nowhere: 0.5}",
            r"env\.mixture: got \['nowhere'\], allowed \['easy_train'",
        ),
        ("env.mixture={easy_train: 3}", "share of split 'easy_train': got 3"),
        ("evaluate.splits=[heldout, nowhere]", r"evaluate\.splits: got \['nowhere'\]"),
        ("graph.options.bugdet=3", "got .'bugdet'."),
    ],
)
def test_a_mistake_is_said_before_the_folder_is_taken(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(small(tmp_path / "run", override))
    assert not (tmp_path / "run").exists()


def test_a_run_in_which_everything_fails_says_why_and_can_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # A part that has no weight fails its rollout, so nothing is left to learn from.
    with pytest.raises(TrainError, match=r"step 0: got 8 failed ones.*reward part: got 'correct'"):
        train(small(out, "rollout.reward_weights={neatness: 1.0}"))
    kept = list(TraceStore(RunFolder(out).traces).read())
    assert len(kept) == 8
    assert all(trace.failed and trace.reward is None for trace in kept)


def test_rollouts_that_a_broken_server_cut_short_are_kept_and_not_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server came back in the second generation, and could not be given the weights."""
    looked: list[int] = []

    def check() -> None:
        looked.append(len(list(TraceStore(RunFolder(out).traces).read())))
        if len(looked) == 2:
            raise PolicyError("weights of http://there: got other log-probs")

    open_policy = Experiment.open_policy

    @contextmanager
    def open_checked(*given: Any) -> Generator[SyncedPolicy]:
        with open_policy(*given) as sampler:
            yield sampler._replace(check=check)

    out = tmp_path / "run"
    monkeypatch.setattr(Experiment, "open_policy", open_checked)
    with pytest.raises(PolicyError, match="http://there"):
        train(small(out))
    assert looked == [8, 16]
    assert len(list(TraceStore(RunFolder(out).traces).read())) == 16
    assert [row["step"] for row in RunFolder(out).read_metrics()] == [1]


def counting(seed: int = 0) -> BaseChatModel:
    """An agent's model that tells what it read and wrote: 100 and 10 tokens."""
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    return Counting(answer=AIMessage("right", usage_metadata=usage))


class Counting(BaseChatModel):
    answer: AIMessage

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer)])


def down(seed: int = 0) -> BaseChatModel:
    """An agent's model whose server is not there."""
    return Down(answer=AIMessage(""))


class Down(Counting):
    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        raise OSError("nobody there")


ASKING = [
    "graph={name: '" + str(Path(__file__).parents[1] / "kit" / "engines.py") + ":asking'}",
    "method.distil_weight=0",
]
VERIFY = "agents={{verify: {{graph: 'graphs.verify:verify', model: '{}:{}', prices: {{input: 100, output: 1000}}}}}}"


def test_a_spending_limit_stops_the_run_and_it_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Each assisted rollout asks once: 100 tokens of 0.0001 and 10 of 0.001 cost 0.02; 4 of 8 are assisted.
    config = [*ASKING, VERIFY.format(__file__, "counting"), "rollout.concurrency=1", "train.save_every=1"]
    with pytest.raises(LimitError, match=r"spending on agents: got 0\.12, allowed less than 0\.11"):
        train(small(out, *config, "rollout.cost_limit=0.11"))
    folder = RunFolder(out)
    kept = [t for t in TraceStore(folder.traces).read() if t.visits and t.consults]
    assert len(kept) == 6
    assert all(call.cost == pytest.approx(0.02) for t in kept for v in t.visits for call in v.calls)
    with pytest.raises(LimitError, match=r"got 0\.12, allowed less than 0\.12 .*in the run"):
        train(small(out, *config, "rollout.cost_limit=0.12"), resume=True)
    train(small(out, *config, "rollout.cost_limit=5"), resume=True)
    # the two of step 1 that were done over were paid twice
    assert CostLimit(folder.spending, None, []).total == pytest.approx(0.20)
    assert sum(line.get("cost/verify", 0) for line in folder.read_metrics()) == pytest.approx(0.16)


def test_only_echo_learns_from_agents_where_all_are_equally_good(tmp_path: Path) -> None:
    """Rewards that are all 0: no advantage, and agents' tokens all the same."""
    asked = [
        *ASKING,
        VERIFY.format(__file__, "counting"),
        "train.steps=1",
        "rollout.reward_weights.correct=0",
    ]
    for preset, learned in (("mask", False), ("aipo", False), ("echo", True)):
        out = tmp_path / preset
        train(load_experiment(preset, [f"run.out={out}", *SMALL, *asked]))
        (line,) = RunFolder(out).read_metrics()
        assert (line["reward/assisted"], line["zero_variance"]) == (0.0, 1.0)
        assert (line["tokens/agent"] > 0, line["grad_norm"] > 0) == (learned, learned), preset
        assert line.get("weight/agent", 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize("preset", ["dapo", "dr_grpo", "gspo", "cispo"])
def test_baselines_train(tmp_path: Path, preset: str) -> None:
    out = tmp_path / preset
    train(load_experiment(preset, [f"run.out={out}", *SMALL, "train.minibatches=2"]))
    folder = RunFolder(out)
    assert len(folder.read_metrics()) == 4
    assert {trace.mode for trace in TraceStore(folder.traces).read()} == {Mode.SOLO}


@pytest.mark.parametrize(
    ("preset", "modes"),
    [
        ("luffy", [Mode.SOLO] * 3 + [Mode.EXPERT]),
        ("sft", [Mode.EXPERT]),
        ("sft_traces", [Mode.ASSISTED] * 2 + [Mode.SOLO] * 2),
    ],
)
def test_baselines_with_demonstrations_train_and_are_trained_on(
    tmp_path: Path, preset: str, modes: list[Mode]
) -> None:
    size = f"train.group_size={len(modes)}"
    given = [*SMALL, "train.steps=1", "rollout.max_tokens=24", size]
    train(load_experiment(preset, [f"run.out={tmp_path / 'first'}", *given]))
    folder = RunFolder(tmp_path / "first")
    assert [trace.mode for trace in TraceStore(folder.traces).read()] == modes * 2
    (line,) = folder.read_metrics()
    assert line.get("weight/agent", 0.0) > 0 or preset == "sft_traces"
    given = [word for word in given if not word.startswith(("policy", "train.group_size"))]
    second = ["train.group_size=2", f"policy.model={folder.model}", f"run.out={tmp_path / 'second'}"]
    train(load_experiment("grpo", [*given, *second]))
    assert json.loads(RunFolder(tmp_path / "second").manifest.read_text())["model"] == str(folder.model)


def test_agents_that_are_down_stop_the_run_and_it_goes_on_when_they_are_back(tmp_path: Path) -> None:
    out = tmp_path / "run"
    many = ["train.tasks_per_step=16", VERIFY.format(__file__, "down")]
    with pytest.raises(LimitError, match=r"got 32 of the last 32 \(verify 32 of 32\).*OSError: nobody there"):
        train(small(out, *ASKING, *many))
    kept = list(TraceStore(out / "traces").read())
    assert sum(len(t.consults) for t in kept) >= 32
    assert {c.fault for t in kept for c in t.consults} == {Fault.UNAVAILABLE}
    config = small(out, *ASKING, *many, "rollout.failure_limit=null")
    train(config, resume=True)
    assert RunFolder(out).read_metrics()[-1]["agent_failures/verify"] == 1.0


FROZEN = "agents={{knowledge: {{graph: 'graphs.knowledge:knowledge', prompt: {}, model: 'aipo.rollout.reference_chat:reference', options: {{max_tokens: 6}}}}}}"


def test_the_frozen_start_is_an_agent_and_its_ratio_is_learned_and_replayed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    prompt = tmp_path / "knowledge.md"
    prompt.write_text("## answer\n{{ request }}=")
    train(
        small(folder.path, *ASKING, FROZEN.format(prompt), "method.coefficient=ratio", "method.negative=same")
    )
    told = [s for t in TraceStore(folder.traces).read() for s in t.segments if s.role is Role.AGENT]
    assert len({tuple(s.token_ids.tolist()) for s in told}) > 1  # rollouts are told different things
    assert all(s.logprobs is not None and (s.logprobs < 0).all() for s in told)
    for line in folder.read_metrics():
        assert line["known/knowledge"] == 1.0
        assert 0 < line["weight/agent"] <= 2.0
    console = Console(file=io.StringIO())
    trust = [word for word in ASKING if word.startswith("graph=")]
    assert check_traces(ReplaySource(path=folder.path, overrides=trust), console) == 0
    given = {"checkpoint": "start", "grid": ["method.coefficient=ratio,mask"], "overrides": [], "steps": None}
    replay_loss(folder.path, **given, gradients=False, out=tmp_path / "loss", console=console)
    ratio, mask, *_ = json.loads((tmp_path / "loss" / "replay.json").read_text())["values"]
    assert ratio["loss"] == pytest.approx(folder.read_metrics()[0]["loss"], abs=1e-6)
    assert (ratio["parts"]["agent"]["weight"] > 0, mask["parts"]["agent"]["weight"]) == (True, 0.0)


def test_models_without_log_probs_are_refused_before_the_folder_is_taken(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"agents\.verify\.model: got envs\.miniature\.agents:verify, which tells no"
    ):
        train(small(tmp_path / "run", "method.coefficient=ratio"))
    assert not (tmp_path / "run").exists()


class Silent(Miniature):
    """The miniature, of which only the easy half is shown how to solve."""

    def demonstration(self, task: Task) -> str | None:
        return None if task.split == "hard" else super().demonstration(task)


class Mute:
    """The miniature, of which nobody shows anything."""

    def __init__(self, seed: int = 0) -> None:
        env = Miniature(seed)
        self.splits, self.tasks, self.score = env.splits, env.tasks, env.score


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("Silent", "demonstration of task 'hard/.*': got None, allowed text of a right solution"),
        ("Mute", "method.plan: got expert with environment Mute, which has no demonstrations"),
    ],
)
def test_an_environment_without_demonstrations_is_refused_before_the_folder_is_taken(
    tmp_path: Path, env: str, says: str
) -> None:
    with pytest.raises((ConfigError, TaskError), match=says):
        train(small(tmp_path / "run", "method.plan=expert", f"env.name={__file__}:{env}"))
    assert not (tmp_path / "run").exists()


def test_demonstrations_are_trained_kept_gone_on_with_and_replayed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    words = (
        "method.plan=expert",
        "method.coefficient_value=0.5",
        "train.save_every=1",
        "rollout.max_tokens=24",
    )
    train(small(folder.path, *words))
    store, lessons, env = TraceStore(folder.traces), TokenStatsStore(folder.token_stats), Miniature()
    text = Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json")).decode
    first = list(store.read())
    assert "".join(t.mode.value[0] for t in first) == "aase" * 4  # 3 are sampled, of which 1.5 are assisted
    for trace in first[3::4]:
        prompt, shown = (text(s.token_ids.tolist(), skip_special_tokens=False) for s in trace.segments)
        assert prompt == trace.task["prompt"]
        assert shown == f"{env.demonstration(Task(**trace.task))}<eos>"
        assert trace.reward == 1.0 and (trace.advantage or 0) > 0  # the cold start knows nothing yet
        (lesson,) = lessons.of(trace.trace_id, trace.step)
        count = len(trace.segments[1])
        assert (lesson.weights_T.tolist(), lesson.codes_T.tolist()) == ([0.5] * count, [2] * count)
    lines = folder.read_metrics()
    assert [line["rollouts/expert"] for line in lines] == [2, 2]

    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    train(small(folder.path, *words), resume=True)
    again = list(store.read())
    assert [(t.trace_id, t.seed, t.token_ids.tolist()) for t in again] == [
        (t.trace_id, t.seed, t.token_ids.tolist()) for t in first
    ]
    console = Console(file=io.StringIO())
    assert check_traces(ReplaySource(path=folder.path), console) == 0
    given = {
        "checkpoint": "start",
        "grid": ["method.coefficient_value=0.5,1"],
        "overrides": [],
        "steps": None,
    }
    replay_loss(folder.path, **given, gradients=False, out=tmp_path / "loss", console=console)
    shown, *_ = json.loads((tmp_path / "loss" / "replay.json").read_text())["values"]
    assert shown["loss"] == pytest.approx(lines[0]["loss"], abs=1e-6)


def test_going_on_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = small(out, "train.save_every=null")
    train(config)
    ids = [trace.trace_id for trace in TraceStore(out / "traces").read()]
    train(config, resume=True)
    assert sorted(trace.trace_id for trace in TraceStore(out / "traces").read()) == sorted(ids)
    kept = (out / "traces" / "__superseded").glob("*.parquet.attempt-1")
    assert len(list(kept)) == 2  # what was there is kept beside


def test_a_users_coefficient_is_recorded_and_looked_for_before_the_folder_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def steady(pi):\n    return 0 * pi + 0.25\n")
    train(small(tmp_path / "run", f"method.coefficient={file}:steady", "train.steps=1"))
    recorded = json.loads(RunFolder(tmp_path / "run").manifest.read_text())["files"]["coefficient"]
    assert recorded == {"file": str(file), "fingerprint": fingerprint(file)}
    with pytest.raises(LoadError, match=r"file: got 'nowhere\.py'"):
        train(small(tmp_path / "none", "method.coefficient=nowhere.py:steady"))
    assert not (tmp_path / "none").exists()


def test_a_run_keeps_its_tokenizer_and_what_was_done_with_each_token(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    config = small(folder.path, "train.save_every=1")
    train(config)
    tokenizer = Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json"))
    store, lessons = TraceStore(folder.traces), TokenStatsStore(folder.token_stats)
    assert [file.step for file in StepFiles(folder.token_stats).files()] == [0, 1] == store.steps()
    (prompt, *_), asked = next((t.segments, t.task["prompt"]) for t in store.read())
    assert tokenizer.decode(prompt.token_ids.tolist()).endswith(asked)
    for trace in store.read():
        for lesson in lessons.of(trace.trace_id, trace.step):
            assert lesson.advantage == trace.advantage != 0
            assert lesson.optimizer_step == trace.step + 1
            places = positions(lesson, [len(s) for s in trace.segments])
            assert len(places) == len(lesson)
            if lesson.kind == "sampled":
                assert places.tolist() == list(range(len(trace.segments[0]), len(trace.token_ids)))

    # Going on without lessons leaves none of the generations that are done over.
    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    train(small(folder.path, "train.save_every=1", "train.token_stats=false"), resume=True)
    assert [file.step for file in StepFiles(folder.token_stats).files()] == [0]
    assert store.steps() == [0, 1]


def test_a_generation_is_gone_through_twice_and_gone_on_with_and_replayed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    # A cold start this short is always wrong: every group has a demonstration that was right, and others.
    shown = ("method.plan=expert", "rollout.max_tokens=24")
    words = ("train.passes=2", "train.minibatches=2", "train.save_every=1", *shown)
    train(small(folder.path, *words))
    lines = folder.read_metrics()
    assert [line["epoch"] for line in lines] == [n / 4 for n in range(1, 9)]
    assert ["seconds/rows" in line for line in lines] == [True, False, False, False] * 2
    assert lines[0]["ratio/policy"] == pytest.approx(1.0, abs=1e-4) != lines[2]["ratio/policy"]
    lessons = TokenStatsStore(folder.token_stats)
    updates = [
        sorted(one.optimizer_step for one in lessons.of(t.trace_id, 1))
        for t in TraceStore(folder.traces).read(1)
    ]
    assert {tuple(own) for own in updates} == {(5, 7), (6, 8)}  # a row is in the same step of both passes

    shutil.rmtree(folder.checkpoints / "checkpoint-8")
    train(small(folder.path, *words), resume=True)
    again = folder.read_metrics()
    assert [line["step"] for line in again] == [*range(1, 9)]
    assert [line["loss"] for line in again] == pytest.approx([line["loss"] for line in lines], abs=1e-6)
    console = Console(file=io.StringIO())
    given = {"checkpoint": "nearest", "grid": [], "overrides": [], "steps": (1, 1)}
    replay_loss(folder.path, **given, gradients=False, out=tmp_path / "loss", console=console)
    first, *_ = json.loads((tmp_path / "loss" / "replay.json").read_text())["values"]
    assert (first["update"], first["loss"]) == (5, pytest.approx(lines[4]["loss"], abs=1e-6))


def test_lessons_can_be_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(small(folder.path, "train.steps=1", "train.token_stats=false"))
    assert not folder.token_stats.exists()


@pytest.mark.parametrize(
    ("overrides", "again"),
    [
        ([], False),
        (["policy.engine=vllm"], True),
        (["method.importance_cap=2"], True),
        (["method.max_mismatch=0.1"], True),
        (["method.coefficient=rlplus"], True),
        (["method.coefficient_trust=1"], True),
    ],
)
def test_the_drift_is_known_in_every_step_where_somebody_asks_for_it(
    overrides: list[str], again: bool
) -> None:
    experiment = load_experiment("aipo", ["method.coefficient=constant", *overrides])
    assert experiment.scores_again is again


def test_a_run_that_a_limit_on_the_drift_stopped_goes_on_under_another(tmp_path: Path) -> None:
    """Decoding with a cache differs from a forward pass by float rounding, which is more than 1e-12."""
    folder = RunFolder(tmp_path / "run")
    # With a KL term rows are trained whatever their advantage.
    words = ("train.minibatches=2", "train.save_every=1", "method.beta=0.01")
    with pytest.raises(TrainError, match=r"in optimizer step 1: got a mean .* allowed 1e-12"):
        train(small(folder.path, "method.max_mismatch=1e-12", *words))
    assert TraceStore(folder.traces).steps() == [0]  # what was sampled is kept
    train(small(folder.path, "method.max_mismatch=1e-4", *words), resume=True)
    lines = folder.read_metrics()
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 < line["mismatch/mean"] < 1e-4 for line in lines)


def test_going_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text(small(out).to_yaml())
    before = (out / "config.yaml").read_bytes()
    with pytest.raises(
        ConfigError, match=r"got method\.coefficient: 'pi', was 'constant'; train\.learning_rate: 0\.001, was"
    ):
        train(small(out, "method.coefficient=pi", "train.learning_rate=1e-3", "run.threads=2"), resume=True)
    assert (out / "config.yaml").read_bytes() == before
