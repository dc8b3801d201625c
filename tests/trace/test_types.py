"""Traces: what they refuse, and that nothing is lost on the way to JSON and back."""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import TraceError
from aipo.trace import (
    Call,
    Consult,
    Mode,
    Role,
    Segment,
    StopReason,
    Trace,
    Visit,
    concatenate,
    of_policy,
    segment,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(0, 1e6)
IDS = st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    role = draw(st.sampled_from(Role))
    ids = draw(st.lists(IDS, min_size=role is Role.POLICY, max_size=5))
    same = {"min_size": len(ids), "max_size": len(ids)}
    logprobs = st.lists(st.floats(-(2.0**99), 0, width=32), **same)
    return segment(
        role,
        draw(TEXT),
        ids,
        logprobs=draw(logprobs if role is Role.POLICY else maybe(logprobs)),
        entropies=draw(maybe(st.lists(st.floats(0, 100, width=32), **same))),
        policy_version=draw(maybe(st.integers(0, 99))),
        policy=draw(TEXT),
    )


CONSULTS = st.builds(
    Consult,
    agent=TEXT,
    request=maybe(TEXT),
    reply=maybe(TEXT),
    error=maybe(TEXT),
    request_segment=st.integers(0, 9),
    request_start=maybe(st.integers(0, 9)),
    reply_segment=st.integers(0, 9),
    policy=TEXT,
)
CALLS = st.builds(
    Call,
    agent=TEXT,
    visit=TEXT,
    model=TEXT,
    messages=st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=2).map(tuple),
    reply=maybe(TEXT),
    settings=OBJECTS,
    tokens_in=maybe(st.integers(0, 9)),
    tokens_out=maybe(st.integers(0, 9)),
    cost=maybe(SECONDS),
    attempts=st.integers(1, 3),
    started=SECONDS,
    seconds=SECONDS,
    cached=st.booleans(),
    error=maybe(TEXT),
)
VISITS = st.builds(
    Visit,
    path=TEXT,
    started=SECONDS,
    seconds=maybe(SECONDS),
    outcome=TEXT,
    calls=st.lists(CALLS, max_size=2).map(tuple),
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    stop = draw(st.sampled_from(StopReason))
    number = st.none() if stop.failed else maybe(FINITE)
    return Trace(
        **{name: draw(TEXT) for name in ("trace_id", "run_id", "group_id", "task_id", "policy")},
        step=draw(st.integers(0, 10**6)),
        index=draw(st.integers(0, 99)),
        mode=draw(st.sampled_from(Mode)),
        parent_id=draw(maybe(TEXT)),
        fork_token=draw(maybe(st.integers(0, 9))),
        task=draw(OBJECTS),
        seed=draw(st.integers(0, 2**63 - 1)),
        sampling=draw(OBJECTS),
        forbidden_ids=tuple(draw(st.lists(IDS, max_size=3))),
        segments=tuple(draw(st.lists(segments(), max_size=3))),
        consults=tuple(draw(st.lists(CONSULTS, max_size=2))),
        visits=tuple(draw(st.lists(VISITS, max_size=2))),
        reward_parts=draw(st.dictionaries(TEXT, FINITE, max_size=3)),
        reward=draw(number),
        advantage=draw(number),
        stop_reason=stop,
        error=draw(maybe(TEXT)),
        policy_version=draw(maybe(st.integers(0, 9))),
        fingerprints=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        started=draw(SECONDS),
        seconds=draw(SECONDS),
    )


def tiny(**changes: Any) -> Trace:
    given = {
        "trace_id": "run/g/0",
        "run_id": "run",
        "group_id": "g",
        "task_id": "t",
        "step": 0,
        "index": 0,
        "mode": Mode.SOLO,
        "task": {"prompt": "6x7="},
        "seed": 1,
        "sampling": {},
        "segments": (
            segment(Role.PROMPT, "task", [1, 2]),
            segment(Role.POLICY, "policy", [3], logprobs=[-0.5], entropies=[0.1], policy_version=0),
            segment(Role.AGENT, "verify", [4, 5, 6]),
        ),
        "stop_reason": StopReason.EOS,
    }
    return Trace(**{**given, **changes})


# --- to JSON and back -------------------------------------------------------------------------------------


@given(traces())
def test_json_and_back_changes_nothing(trace: Trace):
    line = trace.to_json()
    assert b"\n" not in line
    back = Trace.from_json(line)
    assert back == trace
    assert back.to_json() == line
    assert [type(s.token_ids.dtype) for s in back.segments] == [np.dtypes.Int32DType] * len(trace.segments)


@given(st.lists(st.integers(0, 0x7F7FFFFF), min_size=1))
def test_every_float32_survives(bits: list[int]):
    values = -np.array([struct.unpack("f", struct.pack("I", b))[0] for b in bits], np.float32)
    written = segment(Role.POLICY, "policy", [0] * len(bits), logprobs=values)
    read = Trace.from_json(tiny(segments=(written,)).to_json()).segments[0].logprobs
    assert read is not None and read.tobytes() == values.tobytes()


def test_roles_and_reasons_are_read_as_what_they_are():
    back = Trace.from_json(tiny().to_json())
    assert back.segments[1].role is Role.POLICY and back.mode is Mode.SOLO
    assert back.stop_reason is StopReason.EOS and isinstance(back.segments, tuple)


def spoilt(**changes: Any) -> bytes:
    return orjson.dumps({**orjson.loads(tiny().to_json()), **changes})


def bad_segment(**changes: Any) -> bytes:
    good = orjson.loads(tiny().to_json())["segments"][1]
    return spoilt(segments=[{**good, **changes}])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "is torn"),
        (b"{", "is torn"),
        (b"\xff", "is torn"),
        (b"[]", "schema version of here:1: got None, allowed 1"),
        (b"{}", "schema version of here:1: got None, allowed 1"),
        (spoilt(schema_version=2), "schema version of here:1: got 2, allowed 1"),
        (spoilt(seed=None), "seed"),
        (spoilt(mode="group"), "mode"),
        (spoilt(tokens=3), "tokens"),
        (spoilt(stop_reason="error", reward=1.0), "failed rollout"),
        (bad_segment(token_ids=[1.5]), "token ids: got 1.5, allowed int32"),
        (bad_segment(token_ids=[2**31]), "token ids: got 2147483648, allowed int32"),
        (bad_segment(token_ids=[2**64 - 1]), "token ids: got 18446744073709551615"),
        (bad_segment(token_ids=["1"]), "allowed one of numbers"),
        (bad_segment(token_ids=[True]), "got 1 axes of bool"),
        (bad_segment(token_ids=[[1]]), "got 2 axes of int64"),
        (bad_segment(token_ids=[[1], [2, 3]]), "inhomogeneous"),
        (bad_segment(token_ids={"a": 1}), "got 0 axes of object"),
        (bad_segment(token_ids=None), "got 0 axes of object"),
        (bad_segment(logprobs=[None]), "got nan, allowed finite numbers"),
        (bad_segment(logprobs=[{}]), "got 1 axes of object"),
        (bad_segment(logprobs=[1e300]), "got inf, allowed finite numbers"),
        (bad_segment(logprobs=None), "got no log-probabilities"),
    ],
)
def test_a_line_that_is_no_trace_is_refused_with_its_place(line: bytes, reason: str):
    with pytest.raises(TraceError) as caught:
        Trace.from_json(line, "here:1")
    assert "here:1" in str(caught.value) and reason in str(caught.value)


@pytest.mark.parametrize("value", [{1, 2}, {1: "a"}, "\ud83d", 2**70, object()])
def test_what_json_cannot_hold_is_refused(value: Any):
    with pytest.raises(TraceError, match=r"^trace 'run/g/0' of task 't': "):
        tiny(task={"metadata": value}).to_json()


# --- segments ---------------------------------------------------------------------------------------------


def policy(**changes: Any) -> Segment:
    given = {"token_ids": [1, 2], "logprobs": [-0.5, -1.0]}
    return segment(Role.POLICY, "policy", **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logprobs": [-0.5]}, "logprobs of a policy segment from 'policy': got 1 values"),
        ({"entropies": [0.1] * 3}, "entropies of a policy segment from 'policy': got 3 values"),
        ({"logprobs": [-0.5, 0.01]}, "got 0.009999999776482582, allowed <= 0"),
        (
            {"logprobs": [-0.5, float("nan")]},
            "logprobs of a policy segment .* got nan, allowed finite numbers",
        ),
        ({"logprobs": [float("-inf"), -1.0]}, "got -inf, allowed finite numbers"),
        ({"entropies": [float("inf"), 1.0]}, "entropies of a policy segment .* got inf"),
        ({"logprobs": None}, "got no log-probabilities, allowed one per token"),
        ({"token_ids": [], "logprobs": []}, "got no token, allowed at least one"),
        ({"token_ids": [1.5, 2.0]}, "token ids: got 1.5, allowed int32"),
        ({"token_ids": [float("nan"), 2.0]}, "token ids: got nan"),
        ({"token_ids": "12"}, "got 0 axes"),
    ],
)
def test_a_segment_refuses_what_cannot_be(changes: dict[str, Any], reason: str):
    with pytest.raises(TraceError, match=reason):
        policy(**changes)


def test_rounding_above_zero_is_allowed():
    sure = policy(logprobs=[0.0, 1e-4]).logprobs
    assert sure is not None and sure.max() > 0


def test_only_the_policy_must_have_tokens_and_logprobs():
    empty = segment(Role.PROMPT, "task", [])
    assert (len(empty), empty.token_ids.dtype, empty.logprobs) == (0, np.int32, None)


def test_a_segment_cannot_be_changed_by_anyone():
    given_ids, given_logprobs = np.array([1, 2], np.int32), np.array([-1.0, -2.0], np.float32)
    made = policy(token_ids=given_ids, logprobs=given_logprobs)
    given_ids[0] = 9
    assert list(made.token_ids) == [1, 2]
    assert made.logprobs is not None
    for array in (made.token_ids, made.logprobs):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 3


def test_segments_are_equal_by_content():
    assert policy() == policy()
    assert policy() != policy(logprobs=[-0.5, -1.5])
    assert policy() != policy(entropies=[0.1, 0.2])
    assert policy(entropies=[0.1, 0.2]) != policy()
    assert policy() != "policy"
    with pytest.raises(TypeError, match="unhashable"):
        hash(policy())


# --- traces -----------------------------------------------------------------------------------------------


def test_a_trace_knows_its_tokens():
    trace = tiny()
    assert list(trace.token_ids) == [1, 2, 3, 4, 5, 6] and trace.token_ids.dtype == np.int32
    assert [trace.count(role) for role in Role] == [2, 1, 3, 0]
    assert len(concatenate([])) == 0 and concatenate([]).dtype == np.int32


@given(st.lists(segments(), max_size=4))
def test_the_contexts_of_all_policies_are_all_segments(found: list[Segment]):
    names = {s.policy for s in found}
    assert sum(len(of_policy(found, name)) for name in names) == len(found)


def test_failures_are_the_last_four_reasons():
    assert [reason.value for reason in StopReason if reason.failed] == [
        "unscored",
        "error",
        "deadline",
        "cancelled",
    ]
    assert not tiny().failed and tiny(stop_reason=StopReason.DEADLINE).failed


@pytest.mark.parametrize("number", ["reward", "advantage"])
def test_a_failed_rollout_has_neither_reward_nor_advantage(number: str):
    with pytest.raises(TraceError, match=r"failed rollout 'run/g/0' \(error\)"):
        tiny(stop_reason=StopReason.ERROR, **{number: 0.0})


@pytest.mark.parametrize(
    "changes",
    [{"reward": float("nan")}, {"advantage": float("inf")}, {"reward_parts": {"reward": float("nan")}}],
)
def test_rewards_and_advantages_are_finite(changes: dict[str, Any]):
    with pytest.raises(TraceError, match="allowed a finite number"):
        tiny(**changes)


def test_traces_are_equal_by_content():
    assert tiny() == tiny()
    assert tiny() != replace(tiny(), reward=0.0)  # never scored is not zero
    assert tiny() != tiny(segments=())


def test_an_agents_log_probs_may_be_unknown_and_stay_so():
    told = segment(Role.AGENT, "verify", [1, 2, 3], logprobs=[float("nan"), -0.5, float("nan")])
    (back,) = Trace.from_json(tiny(segments=(told,)).to_json()).segments
    assert back == told
    assert back.logprobs is not None and np.isnan(back.logprobs).tolist() == [True, False, True]
    with pytest.raises(TraceError, match=r"logprobs of a agent segment .* got -inf, allowed finite numbers"):
        segment(Role.AGENT, "verify", [1], logprobs=[float("-inf")])
    with pytest.raises(TraceError, match="got nan"):
        segment(Role.ENV, "notice", [1], logprobs=[float("nan")])


def test_null_is_no_log_prob_of_the_policy():
    said = segment(Role.POLICY, "policy", [1, 2], logprobs=[-0.5, -1.0])
    line = tiny(segments=(said,)).to_json().replace(b"[-0.5,-1.0]", b"[-0.5,null]")
    with pytest.raises(TraceError, match="got nan, allowed finite numbers"):
        Trace.from_json(line)
