"""Rows for TRL: conversations for SFTTrainer, preference pairs for DPOTrainer.

Besides the columns that TRL takes (`messages`; `prompt`, `chosen`, `rejected`), the others say where a row is from.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import groupby, islice, product
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple

from aipo.export.conversation import Conversation, Conversations, NotExportable
from aipo.export.selection import ExportStep
from aipo.trace import Trace
from aipo.util.text import to_json

_ROUNDING = 1e-9  # 0.3 - 0.1 is a little less than 0.2
_TEXTS = ("messages", "prompt", "chosen", "rejected")
RowFilter = Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]


class RewardedAnswer(NamedTuple):
    """A trace that has a reward, as a conversation."""

    reward: float
    trace: Trace
    conversation: Conversation


def sft_rows(
    steps: Iterable[ExportStep], conversations: Conversations, left_out: Counter[str], min_reward: float
) -> Iterator[dict[str, Any]]:
    """One row per trace with more reward than `min_reward`; counts why others are left out."""
    for step in steps:
        for reward, trace, conversation in _answers(step, conversations, left_out, min_reward):
            yield {
                "messages": conversation.prompt + conversation.completion,
                "trace_id": trace.trace_id,
                "task_id": trace.task_id,
                "group_id": trace.group_id,
                "step": trace.step,
                "kind": trace.kind,
                "reward": reward,
            }


def preference_rows(
    steps: Iterable[ExportStep],
    conversations: Conversations,
    left_out: Counter[str],
    *,
    margin: float,
    pairs: int | None,
    unique: RowFilter = iter,
) -> Iterator[dict[str, Any]]:
    """Pairs of every group, widest difference of rewards first; with `pairs=1`, the best against the worst.

    Args:
        left_out: counts reasons; a trace that is in no pair has one.
        margin: least difference of the rewards; equal ones are never a pair.
        pairs: most pairs of one group; None = all.
        unique: drops rows before they are limited to `pairs`.
    """
    group_id = attrgetter("trace.group_id")
    for step in steps:
        answers = sorted(_answers(step, conversations, left_out), key=group_id)
        for group in (list(group) for _, group in groupby(answers, key=group_id)):
            rows = list(islice(unique(_preference_row(*pair) for pair in _pairs(group, margin)), pairs))
            paired = {row[name] for row in rows for name in ("chosen_id", "rejected_id")}
            left_out["in no pair of its group"] += len(group) - len(paired)
            yield from rows


def unique_rows(left_out: Counter[str]) -> RowFilter:
    """A filter that drops rows with the same messages as one before, in whatever call."""
    digests: set[bytes] = set()

    def without_repeats(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            digest = blake2b(to_json([row.get(name) for name in _TEXTS]), digest_size=16).digest()
            if digest in digests:
                left_out["repeats an earlier row"] += 1
            else:
                digests.add(digest)
                yield row

    return without_repeats


def _preference_row(better: RewardedAnswer, worse: RewardedAnswer) -> dict[str, Any]:
    return {
        "prompt": better.conversation.prompt,
        "chosen": better.conversation.completion,
        "rejected": worse.conversation.completion,
        "score_chosen": better.reward,
        "score_rejected": worse.reward,
        "chosen_id": better.trace.trace_id,
        "rejected_id": worse.trace.trace_id,
        "task_id": better.trace.task_id,
        "group_id": better.trace.group_id,
        "step": better.trace.step,
    }


def _answers(
    step: ExportStep, conversations: Conversations, left_out: Counter[str], above: float = -inf
) -> Iterator[RewardedAnswer]:
    questions = conversations.questions(step.everyone)
    for stored in step.chosen:
        reward = stored.trace.reward
        if reward is None or reward <= above:
            left_out["no reward" if above == -inf else f"no reward above {above:g}"] += 1
            continue
        try:
            yield RewardedAnswer(reward, stored.trace, conversations.of(stored, questions))
        except NotExportable as why:
            left_out[str(why)] += 1


def _pairs(group: Sequence[RewardedAnswer], margin: float) -> list[tuple[RewardedAnswer, RewardedAnswer]]:
    """The better and the worse of two answers to the same question, with rewards that differ enough.

    Among pairs of the same difference, the best with the worst, the second with the last but one, and so on
    come first: few pairs show many answers.
    """
    best = sorted(group, key=lambda answer: (-answer.reward, answer.trace.index, answer.trace.trace_id))
    worst = sorted(group, key=lambda answer: (answer.reward, answer.trace.index, answer.trace.trace_id))
    ranked = [
        (worse.reward - better.reward, abs(high - low), high, better, worse)
        for (high, better), (low, worse) in product(enumerate(best), enumerate(worst))
        if better.reward - worse.reward >= max(margin - _ROUNDING, _ROUNDING)
        and better.conversation.question == worse.conversation.question
        and better.conversation.answer != worse.conversation.answer
    ]
    return [(better, worse) for *_, better, worse in sorted(ranked, key=lambda item: item[:3])]
