"""pass@k against a count of all draws, intervals against known spreads, and evaluation end to end."""

import itertools
import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langgraph.runtime import Runtime

from aipo.errors import ConfigError, ScoreError
from aipo.evaluate.parts import Part, evaluate
from aipo.evaluate.pass_at_k import Evaluation, TaskResult
from aipo.evaluate.statistics import majority_at_k, pass_at_k
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.context import RolloutContext
from aipo.rollout.env import Task
from aipo.rollout.graph import RolloutState
from aipo.trace import Mode, Role, StopReason, Trace, segment
from kit.engines import TOKENIZER, Exam, ask, chain, engine, mark, task, think
from kit.handmade import consult, trace

# --- pass@k -----------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n: int, data: st.DataObject):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    answers = [True] * c + [False] * (n - c)
    draws = list(combinations(answers, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_many_answers_is_finite():
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, -1, 1), (2, 1, 0), (2, 1, 3)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int):
    with pytest.raises(ConfigError, match=f"got n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


# --- maj@k ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0, 1)), max_size=4), st.integers(0, 2), st.data())
def test_majority_at_k_is_the_mean_over_all_draws(
    answers: list[tuple[int, float]], silent: int, data: st.DataObject
):
    counts, shares = [count for count, _ in answers], [share for _, share in answers]
    n = sum(counts) + silent
    assume(n >= 1)
    k = data.draw(st.integers(1, n))
    samples = [number for number, count in enumerate(counts) for _ in range(count)] + [None] * silent

    def outcome(draw: tuple[int | None, ...]) -> float:
        votes = Counter(answer for answer in draw if answer is not None)
        winners = [answer for answer, count in votes.items() if count == max(votes.values())]
        return sum(shares[answer] for answer in winners) / len(winners) if winners else 0.0

    draws = list(combinations(samples, k))
    right = [count * share for count, share in answers]
    expected = sum(map(outcome, draws)) / len(draws)
    assert majority_at_k(counts, right, n, k) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "right", "n", "k", "value"),
    [
        ([3, 1], [3, 0], 4, 4, 1.0),
        ([3, 1], [0, 1], 4, 4, 0.0),
        ([2, 2], [2, 0], 4, 4, 0.5),  # a tie
        ([3, 1], [3, 0], 4, 1, 0.75),  # of one answer: its share
        ([1], [1], 4, 4, 1.0),  # those without an answer do not vote
        ([], [], 4, 2, 0.0),
    ],
)
def test_majority_at_k_of_a_few(counts: list[int], right: list[int], n: int, k: int, value: float):
    assert majority_at_k(counts, right, n, k) == pytest.approx(value)


def test_majority_at_k_of_many_different_answers():
    assert majority_at_k([1] * 64, [1] * 16 + [0] * 48, 64, 32) == pytest.approx(0.25)


@pytest.mark.parametrize(("counts", "n", "k"), [([2], 1, 1), ([1], 2, 0), ([1], 2, 3)])
def test_majority_at_k_refuses_what_cannot_be(counts: list[int], n: int, k: int):
    with pytest.raises(ConfigError, match=rf"maj@k: got n={n}, {sum(counts)} answers, k={k}"):
        majority_at_k(counts, [0] * len(counts), n, k)


# --- evaluation -------------------------------------------------------------------------------------------


def judge(graph: Any = None, **changes: Any) -> Evaluation:
    settings = {"mode": Mode.SOLO, "samples": 4, "ks": [1, 2], "seed": 0}
    built = {name: changes.pop(name) for name in ("policies", "forbidden_ids") if name in changes}
    tasks = changes.pop("tasks", Exam().tasks("easy")[:2])
    return evaluate(engine(graph, **built), tasks, **{**settings, **changes})


def by_index(outcomes: str) -> Any:
    """A graph in which rollout i of every task passes (+), is wrong (-), fails (!), is not scored (?) or is scored
    otherwise (o)."""

    async def decide(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        turn = counts.setdefault(runtime.context.task.task_id, 0)
        counts[runtime.context.task.task_id] += 1
        if outcomes[turn] == "!":
            raise RuntimeError("broken")
        parts = {"+": {"correct": 1.0}, "-": {"correct": 0.0}, "?": None, "o": {"short": 1.0}}[outcomes[turn]]
        return {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": parts}}

    counts: dict[str, int] = {}
    return chain(ask=ask, think=think, decide=decide)


def test_an_evaluation_counts_passes():
    result = judge(by_index("+--+"))
    assert result.pass_at == {"1": 0.5, "2": pytest.approx(5 / 6)}
    assert result.tasks_at == {"1": 2, "2": 2}
    assert result.interval["1"] == [0.5, 0.5]
    assert result.per_task[0] == TaskResult(
        task_id="easy0", cluster="easy0", verdicts=4, correct=2, failed=0, avg=0.5
    )
    assert result.avg_at == {"4": 0.5} and result.maj_at == {} and result.by == {}
    assert result.counts == {"tasks": 2, "rollouts": 8, "verdicts": 8, "correct": 4, "failed": 0}
    assert result.stops == {"eos": 8}
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain


def test_a_failed_rollout_has_no_verdict():
    result = judge(by_index("+!?-"), ks=[1, 2, 3])
    assert result.pass_at == {"1": 0.5, "2": 1.0, "3": None}
    assert result.tasks_at == {"1": 2, "2": 2, "3": 0}
    assert result.interval["3"] is None
    assert result.counts == {"tasks": 2, "rollouts": 8, "verdicts": 4, "correct": 2, "failed": 4}
    assert result.stops == {"eos": 4, "error": 2, "unscored": 2}


class Voting(Exam):
    """Numbers are the same with and without a point; nobody can tell of 7."""

    def answer(self, task: Task, text: str) -> str | None:
        return text.strip() or None

    async def same(self, task: Task, one: str, other: str) -> bool:
        if "7" in (one, other):
            raise ScoreError("nobody can tell")
        return one.rstrip(".") == other.rstrip(".")

    def labels(self, task: Task) -> dict[str, str]:
        return {"id": task.task_id, "last": str(int(task.task_id[-1]) % 2)}


def test_votes_are_counted_as_the_environment_says_and_tasks_grouped_by_its_labels():
    texts = itertools.cycle(["42", "42.", "7", " "])
    policies = {"policy": ScriptedPolicy(TOKENIZER, lambda _: next(texts))}
    rolled = replace(
        engine(chain(ask=ask, think=think, mark=mark), policies=policies, concurrency=1), env=Voting()
    )
    given: dict[str, Any] = {"mode": Mode.SOLO, "samples": 4, "ks": [1, 4], "seed": 0}
    result = evaluate(rolled, Exam().tasks("easy")[:3], **given)
    first = result.per_task[0]
    assert [asdict(vote) for vote in first.votes] == [
        {"answer": "42", "count": 2, "right": 2},
        {"answer": "7", "count": 1, "right": 0},
    ]
    assert result.maj_at == {"4": 1.0} and result.maj_interval["4"] == [1.0, 1.0]
    assert result.by.keys() == {"last"}  # every id is another one
    assert {value: of["tasks"] for value, of in result.by["last"].items()} == {"0": 2, "1": 1}
    assert result.by["last"]["0"]["maj_at"] == {"4": 1.0}
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain


def test_a_request_is_no_part_of_the_answer():
    tokens = {name: TOKENIZER.encode(text) for name, text in (("asks", "so <6x7"), ("says", " is 42"))}
    pieces = [segment(Role.POLICY, "policy", ids, logprobs=[-0.1] * len(ids)) for ids in tokens.values()]
    part = Part(
        engine=engine(env=Voting()),
        split="easy",
        tasks=Exam().tasks("easy")[:1],
        setting="assisted",
        mode=Mode.ASSISTED,
        suppress=False,
        samples=1,
        ks=(1,),
        seed=0,
    )
    rolled = trace(
        pieces[0],
        segment(Role.AGENT, "verify", TOKENIZER.encode("41")),
        pieces[1],
        group_id="easy-assisted-00000",
        mode=Mode.ASSISTED,
        consults=(consult(0, 3, 1),),
        reward_parts={"correct": 1.0},
    )
    assert part.sample(rolled).answer == "so  is 42"


def test_one_cluster_has_no_interval():
    alike = [task(f"t{i}", cluster="fact 1") for i in range(3)]
    assert judge(tasks=alike).interval == {"1": None, "2": None}


def test_modes_splits_and_samples_have_ids_and_seeds_of_their_own():
    seen: list[Trace] = []
    for mode, suppress in ((Mode.ASSISTED, False), (Mode.SOLO, False), (Mode.SOLO, True)):
        for split in ("easy", "hard"):
            tasks = Exam().tasks(split)
            judge(mode=mode, suppress=suppress, forbidden_ids=(5,), tasks=tasks, on_trace=seen.append)
    assert len({t.trace_id for t in seen}) == len({t.seed for t in seen}) == len(seen) == 3 * 8 * 4
    assert {(t.mode, t.forbidden_ids) for t in seen} == {
        (Mode.ASSISTED, ()),
        (Mode.SOLO, ()),
        (Mode.SOLO, (5,)),
    }
    assert "run/easy-solo-suppressed-00000/0" in {t.trace_id for t in seen}


def test_of_several_policies_the_one_called_policy_is_judged():
    def speaks(name: str) -> Any:
        async def node(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
            asked = segment(Role.PROMPT, "task", TOKENIZER.encode_prompt(f"{name}?"), policy=name)
            piece, _ = await runtime.context.sample([asked], policy=name)
            return {
                "segments": [asked, piece],
                "stops": {name: StopReason.EOS},
                "reward_parts": {name: {"correct": float(name == "policy")}},
            }

        return node

    steps: list[tuple[int, int]] = []
    result = judge(
        chain(policy=speaks("policy"), peer=speaks("peer")),
        policies={name: ScriptedPolicy(TOKENIZER, ["42"]) for name in ("policy", "peer")},
        progress=lambda done, total: steps.append((done, total)),
    )
    assert result.pass_at["1"] == 1.0 and result.counts["rollouts"] == 8
    assert list(dict.fromkeys(steps)) == [(i, 8) for i in range(9)]  # rollouts, not traces


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"got 'correct', allowed \['short'\]"):
        judge(by_index("+oo-"))


@pytest.mark.parametrize("changes", [{"tasks": []}, {"ks": []}, {"ks": [0]}, {"ks": [5]}])
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match="allowed at least one task and 1 <= k <= samples"):
        judge(**changes)


def test_the_same_evaluation_twice():
    graph = chain(ask=ask, think=think, mark=mark)
    assert judge(graph) == judge(graph)
