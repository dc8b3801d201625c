"""Rows for TRL: conversations for SFTTrainer, preference pairs for DPOTrainer.

Besides the columns that TRL takes (`messages`; `prompt`, `chosen`, `rejected`), the others say where a row is from.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

from aipo.export.conversation import Conversation, Conversations, Duplicates, NotExportable
from aipo.export.selection import ExportStep
from aipo.trace import Trace

_ROUNDING = 1e-9  # 0.3 - 0.1 is a little less than 0.2


class RewardedAnswer(NamedTuple):
    """A trace that has a reward, as a conversation."""

    reward: float
    trace: Trace
    conversation: Conversation


AnswerPair = tuple[RewardedAnswer, RewardedAnswer]
"""The better answer and the worse one."""


def sft_rows(
    steps: Iterable[ExportStep],
    conversations: Conversations,
    left_out: Counter[str],
    *,
    min_reward: float,
    unique: bool,
) -> Iterator[dict[str, Any]]:
    """One row per trace with more reward than `min_reward`.

    Args:
        left_out: counts reasons.
        unique: leave out a conversation that was exported already.
    """
    duplicates = Duplicates(unique)
    for step in steps:
        questions = conversations.questions(step.everyone)
        for stored in step.chosen:
            trace = stored.trace
            if trace.reward is None or trace.reward <= min_reward:
                left_out[f"no reward above {min_reward:g}"] += 1
                continue
            try:
                conversation = conversations.of(stored, questions)
            except NotExportable as why:
                left_out[str(why)] += 1
                continue
            messages = conversation.prompt + conversation.completion
            if duplicates.is_repeat(messages):
                left_out["said before"] += 1
                continue
            yield {
                "messages": messages,
                "trace_id": trace.trace_id,
                "task_id": trace.task_id,
                "group_id": trace.group_id,
                "step": trace.step,
                "kind": trace.kind,
                "reward": trace.reward,
            }


def preference_rows(
    steps: Iterable[ExportStep],
    conversations: Conversations,
    left_out: Counter[str],
    *,
    margin: float,
    pairs: int | None,
    unique: bool,
) -> Iterator[dict[str, Any]]:
    """Pairs of every group, widest difference of rewards first; with `pairs=1`, the best against the worst.

    Args:
        left_out: counts reasons; a trace that is in no pair has one.
        margin: least difference of the rewards; equal ones are never a pair.
        pairs: most pairs of one group; None = all.
        unique: leave out a pair with the same words as one before.
    """
    duplicates = Duplicates(unique)
    for step in steps:
        for group in _groups(step, conversations, left_out):
            fresh = (pair for pair in _pairs(group, margin) if not duplicates.is_repeat(*_messages(pair)))
            chosen_pairs = list(islice(fresh, pairs))
            paired = {answer.trace.trace_id for pair in chosen_pairs for answer in pair}
            left_out["in no pair of its group"] += len(group) - len(paired)
            yield from map(_preference_row, chosen_pairs)


def _preference_row(pair: AnswerPair) -> dict[str, Any]:
    better, worse = pair
    prompt, chosen, rejected = _messages(pair)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "score_chosen": better.reward,
        "score_rejected": worse.reward,
        "chosen_id": better.trace.trace_id,
        "rejected_id": worse.trace.trace_id,
        "task_id": better.trace.task_id,
        "group_id": better.trace.group_id,
        "step": better.trace.step,
    }


def _messages(pair: AnswerPair) -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    better, worse = (answer.conversation for answer in pair)
    return better.prompt, better.completion, worse.completion


def _groups(
    step: ExportStep, conversations: Conversations, left_out: Counter[str]
) -> list[list[RewardedAnswer]]:
    questions = conversations.questions(step.everyone)
    groups: dict[str, list[RewardedAnswer]] = defaultdict(list)
    for stored in step.chosen:
        trace = stored.trace
        if trace.reward is None:
            left_out["no reward"] += 1
            continue
        try:
            answer = RewardedAnswer(trace.reward, trace, conversations.of(stored, questions))
        except NotExportable as why:
            left_out[str(why)] += 1
        else:
            groups[trace.group_id].append(answer)
    return [groups[group_id] for group_id in sorted(groups)]


def _pairs(group: Sequence[RewardedAnswer], margin: float) -> list[AnswerPair]:
    """Different answers to the same question, with rewards that differ enough.

    Among pairs of the same difference, the best with the worst, the second with the last but one, and so on
    come first: few pairs show many answers.
    """
    best = sorted(group, key=lambda answer: (-answer.reward, answer.trace.index, answer.trace.trace_id))
    worst = sorted(group, key=lambda answer: (answer.reward, answer.trace.index, answer.trace.trace_id))
    ranked: list[tuple[float, int, int, AnswerPair]] = []
    for (high, better), (low, worse) in product(enumerate(best), enumerate(worst)):
        difference = better.reward - worse.reward
        same_question = better.conversation.question == worse.conversation.question
        if difference <= 0 or difference < margin - _ROUNDING or not same_question:
            continue
        if better.conversation.answer != worse.conversation.answer:
            ranked.append((-difference, abs(high - low), high, (better, worse)))
    return [pair for *_, pair in sorted(ranked, key=lambda item: item[:3])]
