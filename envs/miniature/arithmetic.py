"""The miniature's arithmetic: values and operands of its tasks, and how they are worked out, rightly or wrongly."""

import random
from collections.abc import Sequence

VALUES = range(100, 900)
# One digit changes, and carries: 0.3 M parameters learn this in a minute. Sums of one operand stay below 1000.
OPERANDS = (*range(1, 10), *range(10, 100, 10))


def summands(carry: bool) -> Sequence[int]:
    """The values that sums begin with; without a carry, those with at least nine operands."""
    return VALUES if carry else [value for value in VALUES if value % 10 + value // 10 % 10 <= 9]


def operands_of(value: int, carry: bool) -> Sequence[int]:
    """The operands of sums that begin with `value`; without a carry, those with which no digit exceeds 9."""
    fits = (b for b in OPERANDS if value % 10 + b % 10 <= 9 and value // 10 % 10 + b // 10 <= 9)
    return OPERANDS if carry else tuple(fits)


def draw_operands(rng: random.Random, count: int) -> tuple[int, ...]:
    """So many operands, each on its own."""
    return tuple(rng.choice(OPERANDS) for _ in range(count))


def chain(start: str | int, operands: Sequence[int]) -> str:
    """`chain("3@7", [20, 5])` is `3@7+20+5`."""
    return "+".join(map(str, (start, *operands)))


def complement(a: int) -> int:
    """Every digit's difference to 9; of three digits 999 - a."""
    return 999 - a


def derivation(value: int, operands: Sequence[int]) -> list[str]:
    """A line for each signed operand: `derivation(523, [-7, 20])` is `523-7=516`, `516+20=536`."""
    lines: list[str] = []
    for operand in operands:
        lines.append(f"{value}{operand:+d}={value + operand}")
        value += operand
    return lines


def unborrowed(a: int, b: int) -> int:
    """a - b with the bug "smaller from larger" (Brown & Burton 1978), for `b` of `OPERANDS`: 523 - 7 is 524.

    Each column takes the smaller digit from the larger one, so that nothing is ever borrowed.
    """
    place = 1 if b < 10 else 10
    digit = a // place % 10
    return a + (abs(digit - b // place) - digit) * place


def slip(total: int, rng: random.Random) -> int:
    """A wrong sum of the kind that people make: one digit is off by one."""
    return total + rng.choice((-10, -1, 1, 10))
