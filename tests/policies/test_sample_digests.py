"""Digests of sampled segments: ids are hashed once, and the answer is that of hashing all of them."""

import pytest

from aipo.errors import TraceError
from aipo.policies import sample_digests
from aipo.policies.sample_digests import SampleDigests
from aipo.trace import Segment
from kit import handmade


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The arrays that are hashed, as lists."""
    arrays: list[list[int]] = []
    whole = sample_digests._bytes

    def watch(array):
        arrays.append(array.tolist())
        return whole(array)

    monkeypatch.setattr(sample_digests, "_bytes", watch)
    return arrays


def test_a_long_context_is_hashed_once(hashed: list[list[int]]) -> None:
    prompt, digests = handmade.prompt(*range(100)), SampleDigests()
    context: list[Segment] = [prompt]
    for turn in range(50):
        sampled = handmade.policy(turn)
        digests.add(context, sampled)
        context += [sampled, handmade.agent(turn)]
    assert hashed.count(list(range(100))) == 1
    # Of 50 turns each has its ids and log-probs as a sample, and two segments more in the next turn's context.
    assert len(hashed) == 1 + 50 * 2 + 49 * 2
    digests.check(context, "the context")


A, B, C = (handmade.prompt(number) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("earlier", "context"),
    [
        ([], [A, B]),
        ([A], [A, B]),
        ([A, B], [A, B]),
        ([A, B, C], [A, B]),
        ([A, C], [A, B]),
        ([B, A], [A, B]),
        ([handmade.prompt(1)], [A, B]),
    ],
)
def test_whatever_was_hashed_before_makes_no_difference(
    earlier: list[Segment], context: list[Segment]
) -> None:
    digests, sampled = SampleDigests(), handmade.policy(9)
    digests.add(earlier, handmade.policy(8))
    digests.add(context, sampled)
    digests.check([*context, sampled], "the context")
    for other in ([A], [B, A], [A, B, C], []):
        with pytest.raises(TraceError, match="not sampled behind"):
            digests.check([*other, sampled], "the context")


def test_a_context_that_its_graph_changes_afterwards_is_hashed_as_it_was() -> None:
    digests, context, first, second = SampleDigests(), [A], handmade.policy(8), handmade.policy(9)
    digests.add(context, first)
    context[0] = B  # the list is the graph's own
    digests.add(context, second)
    digests.check([B, second], "the context")
    with pytest.raises(TraceError):
        digests.check([A, second], "the context")
