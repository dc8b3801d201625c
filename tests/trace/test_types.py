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
from aipo.trace import Mode, Role, Segment, StopReason, Trace, concatenate, of_policy, segment
from kit.handmade import agent, prompt, trace
from kit.strategies import TRACES, segments

NAN, INF = float("nan"), float("inf")


def policy(**changes: Any) -> Segment:
    return segment(Role.POLICY, "policy", **{"token_ids": [3, 4], "logprobs": [-0.5, -1.0], **changes})


def tiny(**changes: Any) -> Trace:
    given = {"reward": None, "segments": (prompt(1, 2), policy(), agent(5, 6, 7))}
    return trace(**(given | changes))


# --- to JSON and back -------------------------------------------------------------------------------------


@given(TRACES)
def test_json_and_back_changes_nothing(trace: Trace):
    line = trace.to_json()
    assert b"\n" not in line
    back = Trace.from_json(line)
    assert back == trace
    assert back.to_json() == line
    assert isinstance(back.mode, Mode) and isinstance(back.stop_reason, StopReason)
    for one in back.segments:
        assert isinstance(one.role, Role) and one.token_ids.dtype == np.int32


@given(st.lists(st.integers(0, 0x7F7FFFFF), min_size=1))
def test_every_float32_survives(bits: list[int]):
    values = -np.array([struct.unpack("f", struct.pack("I", b))[0] for b in bits], np.float32)
    written = policy(token_ids=[0] * len(bits), logprobs=values)
    read = Trace.from_json(tiny(segments=(written,)).to_json()).segments[0].logprobs
    assert read is not None and read.tobytes() == values.tobytes()


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
        (bad_segment(logprobs=[-0.5, None]), "got nan, allowed finite numbers"),
        (bad_segment(logprobs=[{}]), "got 1 axes of object"),
        (bad_segment(logprobs=[1e300, 0]), "got inf, allowed finite numbers"),
        (bad_segment(logprobs=None), "got no log-probabilities"),
    ],
)
def test_a_line_that_is_no_trace_is_refused_with_its_place(line: bytes, reason: str):
    with pytest.raises(TraceError) as caught:
        Trace.from_json(line, "here:1")
    assert "here:1" in str(caught.value) and reason in str(caught.value)


@pytest.mark.parametrize("value", [{1, 2}, {1: "a"}, "\ud83d", 2**70, object()])
def test_what_json_cannot_hold_is_refused(value: Any):
    with pytest.raises(TraceError, match=r"^trace 't' of task 'q': "):
        tiny(task={"metadata": value}).to_json()


# --- segments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logprobs": [-0.5]}, "logprobs of a policy segment from 'policy': got 1 values"),
        ({"entropies": [0.1] * 3}, "entropies of a policy segment from 'policy': got 3 values"),
        ({"logprobs": [-0.5, 0.01]}, "got 0.009999999776482582, allowed <= 0"),
        ({"logprobs": [-0.5, NAN]}, "logprobs of a policy segment .* got nan, allowed finite numbers"),
        ({"logprobs": [-INF, -1.0]}, "got -inf, allowed finite numbers"),
        ({"role": Role.AGENT, "logprobs": [-INF, -1.0]}, "logprobs of a agent segment .* got -inf, allowed"),
        ({"role": Role.ENV, "logprobs": [NAN, -1.0]}, "got nan"),
        ({"entropies": [INF, 1.0]}, "entropies of a policy segment .* got inf"),
        ({"logprobs": None}, "got no log-probabilities, allowed one per token"),
        ({"token_ids": [], "logprobs": []}, "got no token, allowed at least one"),
        ({"token_ids": [NAN, 2.0]}, "token ids: got nan"),
        ({"token_ids": "12"}, "got 0 axes"),
    ],
)
def test_a_segment_refuses_what_cannot_be(changes: dict[str, Any], reason: str):
    given = {"role": Role.POLICY, "source": "policy", "token_ids": [3, 4], "logprobs": [-0.5, -1.0]}
    with pytest.raises(TraceError, match=reason):
        segment(**(given | changes))


def test_rounding_above_zero_is_allowed():
    sure = policy(logprobs=[0.0, 1e-4]).logprobs
    assert sure is not None and sure.max() > 0


def test_only_the_policy_must_have_tokens_and_logprobs():
    empty = segment(Role.PROMPT, "task", [])
    assert (len(empty), empty.token_ids.dtype, empty.logprobs) == (0, np.int32, None)


def test_an_agents_log_probs_may_be_unknown_and_stay_so():
    reply = segment(Role.AGENT, "verify", [1, 2, 3], logprobs=[NAN, -0.5, NAN])
    (back,) = Trace.from_json(tiny(segments=(reply,)).to_json()).segments
    assert back == reply
    assert back.logprobs is not None and np.isnan(back.logprobs).tolist() == [True, False, True]


def test_a_segment_cannot_be_changed_by_anyone():
    given_ids, given_logprobs = np.array([1, 2], np.int32), np.array([-1.0, -2.0], np.float32)
    frozen = policy(token_ids=given_ids, logprobs=given_logprobs)
    given_ids[0] = 9
    assert list(frozen.token_ids) == [1, 2]
    assert frozen.logprobs is not None
    for array in (frozen.token_ids, frozen.logprobs):
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
    assert list(trace.token_ids) == [1, 2, 3, 4, 5, 6, 7] and trace.token_ids.dtype == np.int32
    assert [trace.count(role) for role in Role] == [2, 2, 3, 0, 0]
    assert len(concatenate([])) == 0 and concatenate([]).dtype == np.int32


@given(st.lists(segments(), max_size=4))
def test_the_contexts_of_all_policies_are_all_segments(found: list[Segment]):
    names = {s.policy for s in found}
    assert sum(len(of_policy(found, name)) for name in names) == len(found)


def test_failures_are_the_last_four_reasons():
    failures = ["unscored", "error", "deadline", "cancelled"]
    assert [reason.value for reason in StopReason if reason.failed] == failures
    assert not tiny().failed and tiny(stop_reason=StopReason.DEADLINE).failed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stop_reason": StopReason.ERROR, "reward": 0.0}, r"failed rollout 't' \(error\)"),
        ({"stop_reason": StopReason.ERROR, "advantage": 0.0}, r"failed rollout 't' \(error\)"),
        ({"reward": NAN}, "reward of 't': got nan, allowed a finite number"),
        ({"advantage": INF}, "advantage of 't': got inf, allowed a finite number"),
        ({"reward_parts": {"correct": NAN}}, "correct of 't': got nan, allowed a finite number"),
    ],
)
def test_rewards_are_finite_and_a_failed_rollout_has_none(changes: dict[str, Any], reason: str):
    with pytest.raises(TraceError, match=reason):
        tiny(**changes)


def test_traces_are_equal_by_content():
    assert tiny() == tiny()
    assert tiny() != replace(tiny(), reward=0.0)  # never scored is not zero
    assert tiny() != tiny(segments=())
