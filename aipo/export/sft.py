"""Chat data for supervised fine-tuning: conversations that were rewarded.

TRL's SFTTrainer takes a row's `messages`; the other columns say where a conversation is from.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from aipo.export.conversation import Chats, LeftOut, Seen
from aipo.export.selection import Step


def sft_rows(
    steps: Iterable[Step], chats: Chats, left_out: Counter[str], *, min_reward: float, unique: bool
) -> Iterator[dict[str, Any]]:
    """One row per trace with more reward than `min_reward`.

    Args:
        left_out: counts reasons.
        unique: leave out a conversation that was exported already.
    """
    seen = Seen(unique)
    for step in steps:
        prompts = chats.prompts(step.everyone)
        for stored in step.chosen:
            trace = stored.trace
            if trace.reward is None or trace.reward <= min_reward:
                left_out[f"no reward above {min_reward:g}"] += 1
                continue
            try:
                chat = chats.of(stored, prompts)
            except LeftOut as why:
                left_out[str(why)] += 1
                continue
            messages = [*chat.asked, *chat.answer]
            if seen.before(messages):
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
