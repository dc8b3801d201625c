"""Answers that are compared in a way of their own: times of the day, numbers to a base, remainders, lists of words."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import accumulate

from envs.math.writing import plain

_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?:([ap])\.?m\.?)?", re.IGNORECASE)
_BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_DIGITS = re.compile(r"\(?([0-9A-F]*[0-9][0-9A-F]*)\)?(?:_\(?(\d+|[a-z]+)\)?)?")
_MOD = re.compile(
    r"[\s(]*\\(?:pmod|bmod|mod|text\s*\{\s*mod\s*\})\s*\{?\s*(\w+)\s*\}?[\s)]*|\s*\(?\s*\bmod\s+(\w+)\s*\)?"
)
_BETWEEN = re.compile(r"(?:,\s*)?(?:\\text\s*\{[\s,]*(?:and|or)?\s*\}|\b(?:and|or)\b)|,")
_DEPTH = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}

Same = Callable[[str, str], bool]
"""Is the second answer, in tidy LaTeX, as good as the first?"""


def same_time(gold: str, answer: str) -> bool | None:
    """Of times of the day: `15:00` is `3:00 PM`, as are `3:00` and `3`; None where the first is no time."""
    clock, given = _CLOCK.fullmatch(plain(gold)), _CLOCK.fullmatch(plain(answer))
    if clock is None or not (clock[2] or clock[3]):
        return None
    if given is None and not clock[3] and int(clock[2]):
        return None  # 1:10 is a ratio as well
    if given is None or not (given[2] or given[3] or clock[3]) or (clock[2] or "00") != (given[2] or "00"):
        return False
    hours = [int(one[1]) for one in (clock, given)]
    halves = [(one[3] or "").lower() for one in (clock, given)]
    full = [
        hour % 12 + 12 * (half == "p") if half else hour for hour, half in zip(hours, halves, strict=True)
    ]
    return full[0] == full[1] or (hours[0] == hours[1] and not all(halves))


def same_in_base(gold: str, answer: str) -> bool | None:
    """Of numbers to a base, `101_2`: the same digits to the same base. The answer need not say it; a gold without one has 10.

    None where neither says one.
    """
    texts = (re.sub(r"[{}]", "", plain(one)) for one in (gold, answer))
    one, other = (_DIGITS.fullmatch(text) for text in texts)
    if one is None or other is None or not (one[2] or other[2]):
        return None
    base = one[2] or "10"
    given = other[2] or base
    return one[1] == other[1] and _BASES.get(base, base) == _BASES.get(given, given)


def same_remainder(gold: str, answer: str, same: Same) -> bool | None:
    r"""Of `x \equiv 3 \pmod 7`, `3 \pmod 7` and `3`; None where the first and the second have no modulus."""
    moduli = [next((found[1] or found[2] for found in _MOD.finditer(one)), None) for one in (gold, answer)]
    if moduli == [None, None]:
        return None
    one, other = (re.sub(r".*(?:\\equiv|=)", "", _MOD.sub("", text)).strip() for text in (gold, answer))
    if all(moduli) and moduli[0] != moduli[1]:
        return False
    numbers = [text.lstrip("-").isdecimal() for text in (one, other, moduli[0] or "")]
    if moduli[0] and all(numbers) and int(moduli[0]):
        return (int(one) - int(other)) % int(moduli[0]) == 0
    return same(one, other)


def same_items(gold: str, answer: str) -> bool | None:
    """Of lists whose order says nothing: `A, B and D`; None where they are no lists, or not of the same texts."""
    ones, others = _items(gold), _items(answer)
    if len(ones) < 2 or Counter(ones) != Counter(others) or re.search(r"[<>]|\\[lg][et]\b", gold):
        return None
    one, other = (re.search(r"\bor\b", latex) is not None for latex in (gold, answer))
    # x=1 or x=2 is 1, 2; Alice or Bob is not Alice and Bob.
    return one == other or any(map(str.isdigit, gold))


def _items(latex: str) -> list[str]:
    """The texts between commas that are in no bracket."""
    whole = re.sub(r"\\text\s*\{([^{}]*(?:,|\b(?:and|or)\b)[^{}]*)\}", r"\1", latex)
    depths = [0, *accumulate(_DEPTH.get(character, 0) for character in whole)]
    items, start = list[str](), 0
    for mark in _BETWEEN.finditer(whole):
        if depths[mark.start()] == 0:
            items.append(whole[start : mark.start()])
            start = mark.end()
    return [text for item in [*items, whole[start:]] if (text := plain(item))]
