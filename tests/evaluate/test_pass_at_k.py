"""pass@k against a count of all draws, intervals against known spreads, and evaluation end to end."""

import json
from dataclasses import asdict
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.runtime import Runtime

from aipo.errors import ConfigError
from aipo.evaluate.pass_at_k import Evaluation, TaskResult, evaluate, pass_at_k
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Mode, Role, StopReason, Trace, segment
from kit.engines import TOKENIZER, Exam, ask, chain, engine, mark, task, think

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
    assert result.per_task[0] == TaskResult(task_id="easy0", cluster="easy0", verdicts=4, correct=2, failed=0)
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
