"""Preference pairs: of two answers to the same question, the one with more reward.

TRL's DPOTrainer takes `prompt`, `chosen` and `rejected`; the other columns say where a pair is from.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

from aipo.export.conversation import Chat, Chats, LeftOut, Message, Seen
from aipo.export.selection import Step
from aipo.trace import Trace

_ROUNDING = 1e-9  # 0.3 - 0.1 is a little less than 0.2


class Answer(NamedTuple):
    """A trace that has a reward, as a conversation."""

    reward: float
    trace: Trace
    chat: Chat


def preference_rows(
    steps: Iterable[Step],
    chats: Chats,
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
        unique: leave out a pair that says what one before has said.
    """
    seen = Seen(unique)
    for step in steps:
        for group in _groups(step, chats, left_out):
            fresh = (pair for pair in _pairs(group, margin) if not seen.before(*_said(*pair)))
            made = list(islice(fresh, pairs))
            paired = {answer.trace.trace_id for pair in made for answer in pair}
            left_out["in no pair of its group"] += len(group) - len(paired)
            for better, worse in made:
                prompt, chosen, rejected = _said(better, worse)
                yield {
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


def _said(better: Answer, worse: Answer) -> tuple[list[Message], list[Message], list[Message]]:
    return better.chat.asked, list(better.chat.answer), list(worse.chat.answer)


def _groups(step: Step, chats: Chats, left_out: Counter[str]) -> list[list[Answer]]:
    prompts = chats.prompts(step.everyone)
    groups: dict[str, list[Answer]] = defaultdict(list)
    for stored in step.chosen:
        if stored.trace.reward is None:
            left_out["no reward"] += 1
            continue
        try:
            answer = Answer(stored.trace.reward, stored.trace, chats.of(stored, prompts))
        except LeftOut as why:
            left_out[str(why)] += 1
        else:
            groups[stored.trace.group_id].append(answer)
    return [groups[group_id] for group_id in sorted(groups)]


def _pairs(group: Sequence[Answer], margin: float) -> list[tuple[Answer, Answer]]:
    """Answers to the same question in other words, with rewards that differ enough.

    Among pairs of the same difference, the best with the worst, the second with the last but one, and so on
    come first: few pairs show many answers.
    """
    best = sorted(group, key=lambda answer: (-answer.reward, answer.trace.index, answer.trace.trace_id))
    worst = sorted(group, key=lambda answer: (answer.reward, answer.trace.index, answer.trace.trace_id))
    ranked: list[tuple[float, int, int, tuple[Answer, Answer]]] = []
    for (high, better), (low, worse) in product(enumerate(best), enumerate(worst)):
        difference = better.reward - worse.reward
        if difference <= 0 or difference < margin - _ROUNDING or better.chat.prompt != worse.chat.prompt:
            continue
        if better.chat.answer != worse.chat.answer:
            ranked.append((-difference, abs(high - low), high, (better, worse)))
    return [pair for *_, pair in sorted(ranked, key=lambda item: item[:3])]
