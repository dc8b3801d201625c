"""A recorded policy says again what it said, as long as it is asked the same."""

import asyncio
from typing import Any

import numpy as np
import pytest

from aipo.errors import PolicyError, ReplayError
from aipo.policies import Completion, SampleRequest
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.replay.policy import ReplayPolicy
from aipo.trace import Mode, Role, StopReason, Trace, Visit, segment
from kit import handmade

TOKENIZER = CharTokenizer(specials=("</consult>",))
WORDS = {"prompt": "6x7=", "first": "ask</consult>", "reply": "<42>", "second": "42<eos>"}


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, control=True)


def policy_segment(text: str, *, logprob: float, version: int) -> Any:
    tokens = ids(text)
    numbers = {"logprobs": [logprob] * len(tokens), "entropies": [0.25] * len(tokens)}
    return segment(Role.POLICY, "policy", tokens, **numbers, policy_version=version)


def recorded(**changes: Any) -> Trace:
    """`6x7=` → `ask</consult>` (version 3) → `<42>` by verify → `42<eos>` (version 4)."""
    segments = (
        segment(Role.PROMPT, "prompt", ids(WORDS["prompt"])),
        policy_segment(WORDS["first"], logprob=-0.5, version=3),
        segment(Role.AGENT, "verify", ids(WORDS["reply"])),
        policy_segment(WORDS["second"], logprob=-0.75, version=4),
    )
    given = {"trace_id": "run/g/0", "mode": Mode.ASSISTED, "seed": 7, "advantage": None}
    sampling = {"temperature": 1.0, "max_tokens": 64}
    return handmade.trace(*changes.pop("segments", segments), **{**given, "sampling": sampling, **changes})


def ask(policy: ReplayPolicy, context: str, *, stop: str = "</consult>", **changes: Any) -> Completion:
    given = {"max_tokens": 64, "stop": (stop,) if stop else (), **changes}
    return asyncio.run(policy.sample(SampleRequest(np.array(ids(context), np.int32), **given)))


def after(*names: str) -> str:
    return "".join(WORDS[name] for name in names)


class Counting(ScriptedPolicy):
    """A live policy that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, lambda context: "live")
        self.asked: list[tuple[str, int]] = []

    async def sample(self, request: SampleRequest) -> Completion:
        self.asked.append((TOKENIZER.decode(request.token_ids), request.seed))
        return await super().sample(request)


def test_the_same_questions_get_the_recorded_answers() -> None:
    policy = ReplayPolicy(recorded(), TOKENIZER)
    first = ask(policy, after("prompt"))
    assert TOKENIZER.decode(first.token_ids) == "ask</consult>"
    assert (first.finish, first.policy_version) == ("stop", 3)
    assert first.logprobs.tolist() == [-0.5] * 4
    assert first.entropies.tolist() == [0.25] * 4
    second = ask(policy, after("prompt", "first", "reply"))
    assert (TOKENIZER.decode(second.token_ids), second.finish, second.policy_version) == ("42<eos>", "eos", 4)
    assert (policy.reuse.turns, policy.reuse.live_turns, policy.live_from) == (2, 0, None)


def test_a_node_that_is_tried_again_is_answered_again() -> None:
    policy = ReplayPolicy(recorded(), TOKENIZER)
    assert np.array_equal(ask(policy, after("prompt")).token_ids, ask(policy, after("prompt")).token_ids)


@pytest.mark.parametrize(
    ("context", "changes", "says"),
    [
        ("6x8=", {}, r"turn 0 of 'run/g/0': token 2 of the context is '8', recorded '7' \(prompt\)"),
        ("6x7=ask</consult><43>", {}, r"token 10 of the context is '3', recorded '2' \(feedback of verify\)"),
        ("6x7=as", {}, r"asked at token 6, where recorded was policy"),
        ("6x7=ask</consult><42>42<eos>", {}, r"asked at|ends with token 14"),
        ("6x7=", {"temperature": 0.5}, r"another temperature"),
        ("6x7=", {"forbidden_ids": (5,)}, r"other forbidden tokens"),
        ("6x7=", {"stop": ""}, r"ends where it would not end now"),
        ("6x7=", {"max_tokens": 3}, r"ends where it would not end now"),
    ],
)
def test_anything_else_needs_a_live_call(context: str, changes: dict[str, Any], says: str) -> None:
    policy = ReplayPolicy(recorded(), TOKENIZER)
    with pytest.raises(ReplayError, match="needs a live call here: .*" + says):
        ask(policy, context, **changes)
    with pytest.raises(ReplayError, match=says):  # nothing is answered after it
        ask(policy, after("prompt"))


def test_a_recorded_answer_is_reused_up_to_the_stop_string_that_ends_it_now() -> None:
    policy = ReplayPolicy(recorded(), TOKENIZER)
    first = ask(policy, after("prompt"), stop="sk")
    assert (TOKENIZER.decode(first.token_ids), first.finish, first.policy_version) == ("ask", "stop", 3)
    assert first.logprobs.tolist() == [-0.5] * 3
    assert first.entropies.tolist() == [0.25] * 3
    assert policy.reuse.fork.detail == (
        "turn 0 of 'run/g/0': a stop string ends the recorded answer after 3 of its 4 tokens now"
    )
    with pytest.raises(ReplayError, match="needs a live call here"):
        ask(policy, after("prompt") + "ask!", stop="sk")
    late = ReplayPolicy(recorded(), TOKENIZER)  # an answer that the end token ended
    second = ask(late, after("prompt", "first", "reply"), stop="4")
    assert (TOKENIZER.decode(second.token_ids), second.finish) == ("4", "stop")
    with pytest.raises(ReplayError, match="ends where it would not end now"):
        ask(ReplayPolicy(recorded(), TOKENIZER), after("prompt"), stop="sk", max_tokens=2)


def test_the_live_policy_goes_on_for_good_and_with_the_seed_of_the_turn() -> None:
    live = Counting()
    policy = ReplayPolicy(recorded(), TOKENIZER, live)
    ask(policy, after("prompt"), seed=1)
    done = ask(policy, "6x7=ask</consult><43>", seed=2)
    assert TOKENIZER.decode(done.token_ids) == "live<eos>"
    assert done.policy_version == 4  # versions never fall within a trace
    ask(policy, after("prompt"), seed=3)  # recorded, but there is no way back
    assert live.asked == [("6x7=ask</consult><43>", 2), ("6x7=", 3)]
    assert (policy.reuse.turns, policy.reuse.live_turns, policy.live_from) == (1, 2, 12)
    assert policy.reuse.fork.at == "feedback of verify"


def test_a_segment_that_a_limit_cut_is_reused_under_that_limit_only() -> None:
    """4 tokens of the prompt and 3 more, where 3 were allowed, or where the model ran out of positions."""
    pieces = (recorded().segments[0], policy_segment("abc", logprob=-0.5, version=0))
    for limit, allowed, refused in ((3, 3, 4), (64, 64, 65)):
        sampling = {"temperature": 1.0, "max_tokens": limit}
        cut_off = recorded(segments=pieces, stop_reason=StopReason.LENGTH, sampling=sampling)
        assert ask(ReplayPolicy(cut_off, TOKENIZER), "6x7=", max_tokens=allowed).finish == "length"
        with pytest.raises(ReplayError, match="ends where it would not end now"):
            ask(ReplayPolicy(cut_off, TOKENIZER), "6x7=", max_tokens=refused)


def failed(error: str, **changes: Any) -> Trace:
    given: dict[str, Any] = {"segments": recorded().segments[:3], "reward": None, "error": error}
    return recorded(**{**given, "stop_reason": StopReason.ERROR, **changes})


def test_the_error_that_ended_a_rollout_is_raised_again() -> None:
    visit = Visit(path="policy", started=0.0, seconds=0.1, outcome="PolicyError: logits are NaN")
    trace = failed("PolicyError: logits are NaN (in node policy)", visits=(visit,))
    with pytest.raises(PolicyError) as caught:
        ask(ReplayPolicy(trace, TOKENIZER), after("prompt", "first", "reply"))
    assert (type(caught.value).__name__, str(caught.value)) == ("PolicyError", "logits are NaN")


def test_a_live_policy_may_do_better_than_a_recorded_error() -> None:
    live = Counting()
    done = ask(ReplayPolicy(failed("ValueError: no"), TOKENIZER, live), after("prompt", "first", "reply"))
    assert TOKENIZER.decode(done.token_ids) == "live<eos>"


def test_versions_are_those_of_the_recording_until_the_live_ones_are_later() -> None:
    live = Counting()
    assert ReplayPolicy(recorded(), TOKENIZER).version == 4
    assert ReplayPolicy(recorded(), TOKENIZER, live).version == 4
    live.version = 9
    assert ReplayPolicy(recorded(), TOKENIZER, live).version == 9
    assert ask(ReplayPolicy(recorded(), TOKENIZER, live), "6x8=").policy_version == 9
