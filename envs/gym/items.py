"""Items of a family of reasoning-gym, and whether an answer is right: what workers of the sandbox run.

Some families draw from sets of words, so that the same numbers make other items in every process; the sandbox's processes
hash alike. Some have a computer algebra system read the answer, which may take for ever.
"""

import importlib
import json
from typing import Any

from envs.gym.families import dataset
from envs.math import final_answer

importlib.import_module("reasoning_gym")  # here, so that its seconds are not those of a first call

Item = dict[str, Any]
"""`question`, `answer` (text, or None where many are right) and `metadata`, as JSON can hold them."""


def items(family: str, start: int, count: int) -> list[Item]:
    """Those of items `start` to `start + count` that can be used; some of them may ask the same.

    Passed over is what JSON cannot hold, and what nobody could answer: its own answer is not read back out of the box
    (braces without a partner), or is not right.

    Args:
        family: a `Family` as JSON.
    """
    source = dataset(family)
    usable: list[Item] = []
    for number in range(start, min(start + count, len(source))):
        try:
            item = json.loads(json.dumps(source[number]))
        except (TypeError, ValueError):
            continue
        if item["answer"] is None or _can_be_right(family, item):
            usable.append(item)
    return usable


def _can_be_right(family: str, item: Item) -> bool:
    answer = final_answer(f"\\boxed{{{item['answer']}}}", item["question"])
    return answer is not None and score(family, item, answer) >= 1.0


def score(family: str, item: Item, answer: str) -> float:
    """How good an answer to `item` is by the family's own rule: 1.0 where it is right, at the least 0.0.

    An answer that the family cannot read is wrong: most say so themselves, some raise instead.

    Args:
        family: a `Family` as JSON.
    """
    try:
        return float(dataset(family).score_answer(answer, entry=item))
    except (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError):
        return 0.0
