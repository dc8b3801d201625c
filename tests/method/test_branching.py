"""The plan `branching`: where rollouts are forked, with entropies that can be checked by eye."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import ConfigError, PolicyError
from aipo.method.branching import BranchingSettings, entropy_change
from aipo.method.plan import grow_group, plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.rollout.spec import Fork, RolloutSpec
from aipo.trace import Mode, Role, Segment, StopReason, Trace, segment
from kit import handmade
from kit.engines import task

pytestmark = pytest.mark.fast

V = 8


def turn(*entropies: float) -> Segment:
    size = len(entropies)
    return segment(Role.POLICY, "policy", [1] * size, logprobs=[-1.0] * size, entropies=list(entropies))


def reply() -> Segment:
    return segment(Role.AGENT, "verify", [2, 2])


PROMPT = segment(Role.PROMPT, "prompt", [0, 0, 0])


def rollout(spec: RolloutSpec, *turns: float, **changes: Any) -> Trace:
    """A rollout whose turns, of four tokens, have these entropies; a reply behind each but the last."""
    segments = [PROMPT]
    for number, entropy in enumerate(turns):
        segments += [reply()] * (number > 0) + [turn(*[entropy] * 4)]
    identity = {"run_id": "run", "group_id": spec.group_id, "index": spec.index}
    fork = {"parent_id": spec.fork and spec.fork.parent_id, "fork_token": spec.fork and spec.fork.token}
    given = {
        "trace_id": f"run/{spec.group_id}/{spec.index}",
        "seed": spec.seed,
        "reward": 1.0,
        "advantage": None,
    }
    return handmade.trace(
        **{**identity, **fork, **given, "segments": tuple(segments), "consults": (), **changes}
    )


def settings(**changes: Any) -> MethodSettings:
    """Forks where entropy has risen, unless a test says otherwise."""
    branching = {"decision": "threshold", "rollouts": 1} | changes
    return MethodSettings(plan="branching", credit="branch", assist_share=1.0, branching=branching)


def first_wave(method: MethodSettings, size: int = 8) -> list[RolloutSpec]:
    return plan_rollouts([task()], method, step=0, steps=1, group_size=size, seed=0)


def grown(
    method: MethodSettings, specs: Sequence[RolloutSpec], traces: Sequence[Trace], size: int = 8
) -> list[Any]:
    """What the group gets next: the place of each fork, as (parent's index, tokens), None for a fresh rollout."""
    following = grow_group(method, specs, traces, steps=1, group_size=size, vocabulary=V)
    assert [spec.index for spec in following] == list(range(len(specs), len(specs) + len(following)))
    assert all(spec.forkable and spec.mode is Mode.ASSISTED for spec in following)
    return [(int(s.fork.parent_id.rpartition("/")[2]), s.fork.token) if s.fork else None for s in following]


FIRST, SECOND = 3 + 4 + 2, 3 + 4 + 2 + 4 + 2  # tokens before the first and the second turn behind a reply


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ((1.0, 2.0), [(0, FIRST)]),
        ((1.0, 1.0), [None] * 7),  # P = α = τ is not above it
        ((1.0, 0.5, 2.0), [(0, SECOND)]),
        ((1.0, 2.0, 3.0), [(0, FIRST), (0, SECOND)]),
        ((1.0,), [None] * 7),  # nothing was asked: all begin with the task
    ],
)
def test_a_rollout_is_forked_where_entropy_has_risen(turns: tuple[float, ...], expected: list[Any]):
    specs = first_wave(method := settings())
    assert grown(method, specs, [rollout(specs[0], *turns)]) == expected


def test_a_group_grows_by_depth_then_by_index_to_its_size():
    specs = first_wave(method := settings(rollouts=3), 6)
    traces = [rollout(specs[0], 1, 2, 3), rollout(specs[1], 1, 0, 1), rollout(specs[2], 1, 2, 1)]
    assert grown(method, specs, traces, 6) == [(0, FIRST), (2, FIRST), (0, SECOND)]
    assert grown(method, specs, traces, 5) == [(0, FIRST), (2, FIRST)]
    assert grown(settings(rollouts=3, ways=3), specs, traces, 6) == [(0, FIRST), (0, FIRST), (2, FIRST)]
    assert grown(method, specs, traces, 3) == []


def test_forks_are_forked_at_turns_of_their_own_and_what_is_left_over_begins_anew():
    specs = first_wave(method := settings(), 4)
    traces = [rollout(specs[0], 1, 2, 0)]
    specs += grow_group(method, specs, traces, steps=1, group_size=4, vocabulary=V)
    traces += [rollout(specs[1], 1, 3, 4)]
    assert specs[1].fork == Fork("run/00000-000/0", FIRST)
    assert specs[1].session == specs[0].seed != specs[1].seed
    following = grow_group(method, specs, traces, steps=1, group_size=4, vocabulary=V)
    assert [spec.fork for spec in following] == [Fork("run/00000-000/1", SECOND)]
    assert following[0].session == specs[0].seed
    specs += following
    traces += [rollout(specs[2], 1, 3, 5)]
    assert grown(method, specs, traces, 4) == [None]
    assert grown(method, specs, traces, 5) == [None, None]


def test_a_fork_is_less_likely_behind_forks_in_a_row():
    turns = (0, 4, 4, 0, 4)  # ΔH of 4 nats, none, and 4 again
    specs = first_wave(settings())
    gap = 4 / 2.0794415416798357  # over ln 8
    for penalty, forks in ((0.0, [True, True, False, True]), (0.5, [True, False, False, True])):
        method = settings(penalty=penalty, alpha=0.0, beta=0.9 / gap, tau=0.6)
        places = [place for _, place in grown(method, specs, [rollout(specs[0], *turns)])]
        assert places == [FIRST + 6 * n for n, forked in enumerate(forks) if forked]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sum", (1 + 2) / 2.0794415416798357),
        ("mean", (1 + 2) / 2 / 2.0794415416798357),
        ("vocabulary", 3 / 8),
    ],
)
def test_the_change_of_entropy(change: str, expected: float):
    branching = BranchingSettings(change=change, tokens=2)  # type: ignore[arg-type]
    assert entropy_change(branching, V, turn(1, 1, 9), turn(2, 3, 0, 0)) == pytest.approx(expected)
    assert entropy_change(branching, V, turn(1), turn(2, 3)) == pytest.approx(1 / (8 if change == "vocabulary" else 2.0794415416798357))  # fmt: skip


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (3.0, 1.0), (-1.0, 0.0)])
def test_forks_are_drawn(alpha: float, share: float):
    method = settings(decision="drawn", alpha=alpha, beta=0.0, rollouts=4000)
    specs = first_wave(method, 8000)
    places = grown(method, specs, [rollout(spec, 1, 1) for spec in specs], 8000)
    forked = [place for place in places if place is not None]
    assert len(forked) / 4000 == pytest.approx(share, abs=0.02)
    assert places == (forked or [None] * 4000)


@pytest.mark.parametrize(
    ("turns", "scale", "expected"),
    [
        ((1.0, 1.0), None, 4),  # M·σ(0)
        ((3.0, 2.0), None, 6),  # 8·σ(1) = 5.85
        ((2.0, 3.0), None, 2),  # 8·σ(−1) = 2.15
        ((2.0, 4.0, 2.0), None, 2),  # the mean behind replies
        ((2.0, 3.0), 100.0, 1),  # never none
        ((2.0, 3.0), 1e9, 1),
        ((5.0,), None, 8),  # nothing to fork
    ],
)
def test_entropy_sets_how_many_begin_with_the_task(
    turns: tuple[float, ...], scale: float | None, expected: int
):
    method = settings(budget="entropy", rollouts=None, budget_scale=scale, alpha=0.0, beta=0.0)
    specs = first_wave(method)
    assert len(specs) == 1
    following = grown(method, specs, [rollout(specs[0], *turns)])
    # without forks, what is left over begins anew as well
    assert following == [None] * (expected - 1 or 7)


def test_a_failed_rollout_is_not_forked():
    specs = first_wave(method := settings(rollouts=2), 4)
    failed = {"stop_reason": StopReason.ERROR, "reward": None, "error": "no"}
    traces = [rollout(specs[0], 1, 5, **failed), rollout(specs[1], 1, 2)]
    assert grown(method, specs, traces, 4) == [(1, FIRST)]
    method = settings(budget="entropy", rollouts=None)
    assert grown(method, specs[:1], traces[:1], 4) == [None] * 3


def test_what_cannot_be_forked_is_refused():
    specs = first_wave(method := settings(), 4)
    blind = rollout(specs[0], 1, 2)
    pieces = tuple(segment(s.role, s.source, s.token_ids, logprobs=s.logprobs) for s in blind.segments)
    with pytest.raises(PolicyError, match="entropies of the policy's tokens: got none"):
        grown(method, specs, [rollout(specs[0], 1, 2, segments=pieces)], 4)
    with pytest.raises(ConfigError, match="2 traces of 1 rollouts, allowed a graph with one policy"):
        grown(method, specs, [blind, blind], 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 1}, "greater than or equal to 2"),
        ({"decision": "drawn", "tau": 0.3}, "tau: got 0.3 with decision=drawn, allowed null"),
        ({"budget_scale": 2.0}, "budget_scale: got 2.0 with budget=fixed, allowed null"),
        (
            {"budget": "entropy", "rollouts": 2},
            "rollouts: got 2 with budget=entropy, which sets it, allowed null",
        ),
        ({"penalty": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        BranchingSettings(**changes)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 12),
    ways=st.integers(2, 4),
    turns=st.lists(st.lists(st.floats(0, 5), min_size=1, max_size=4), min_size=12, max_size=12),
    penalty=st.floats(0, 1),
)
def test_a_group_gets_its_size_and_forks_stand_where_their_parents_asked(
    seed: int, size: int, ways: int, turns: list[list[float]], penalty: float
):
    branching = {"rollouts": None, "decision": "drawn", "ways": ways, "penalty": penalty}
    method = settings(**branching)
    wave = plan_rollouts([task()], method, step=0, steps=1, group_size=size, seed=seed)
    specs: list[RolloutSpec] = []
    traces: list[Trace] = []
    while wave:
        for spec in wave:
            own = turns[spec.index]
            if spec.fork is not None:
                parent = traces[int(spec.fork.parent_id.rpartition("/")[2])]
                depth = (spec.fork.token - 3) // 6
                above = [float(s.entropies[0]) for s in parent.segments if s.entropies is not None][:depth]
                own = above + own
            traces.append(rollout(spec, *own))
        specs += wave
        wave = grow_group(method, specs, traces, steps=1, group_size=size, vocabulary=V)
    assert [spec.index for spec in specs] == list(range(size))
    assert len({spec.seed for spec in specs}) == size
    for trace in traces:
        if trace.parent_id is not None:
            assert trace.own.segments[0].role is Role.POLICY
            assert [n for n, _ in enumerate(trace.segments)][-len(trace.own.segments)] >= 3
