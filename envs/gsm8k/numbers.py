"""Which numbers a text states, in digits or in words, so that a tutor can tell whether it would say the answer."""

import re
from fractions import Fraction
from unicodedata import normalize

_WORD = re.compile("[a-z]+")
_ONES = _WORD.findall(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = _WORD.findall("twenty thirty forty fifty sixty seventy eighty ninety")
_SMALL = {
    **{word: Fraction(value) for value, word in enumerate(_ONES)},
    **{word: Fraction(10 * value) for value, word in enumerate(_TENS, start=2)},
    **dict.fromkeys(("pair", "couple", "twice", "double", "both"), Fraction(2)),
    **dict.fromkeys(("triple", "thrice"), Fraction(3)),
    **dict.fromkeys(("half", "halves"), Fraction(1, 2)),
    **dict.fromkeys(("quarter", "quarters"), Fraction(1, 4)),
}
_SCALES = {
    word: Fraction(value)
    for word, value in (
        *(("hundred", 100), ("dozen", 12), ("score", 20)),
        *(("thousand", 1000), ("k", 1000), ("million", 10**6), ("billion", 10**9)),
    )
}
_TOKEN = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+|[a-z]+|%")
_BETWEEN = re.compile(r"[\s-]*")
_JOINING = ("and", "a", "an")  # two hundred and five, half a dozen


def read_number(text: str) -> Fraction | None:
    """The number that `text` is, such as `1,250`, `$3.50` or `-2`; None if it is something else."""
    plain = text.strip().replace(",", "").replace("$", "").removesuffix("%").rstrip(".")
    return Fraction(plain) if re.fullmatch(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)", plain) else None


def stated_numbers(text: str) -> frozenset[Fraction]:
    """Every number that `text` states, without its sign: `7`, `70 thousand`, `twenty-four`, `half`.

    Where a run of words can be read as one number or as several, all readings count: `two hundred` states 2 and 100,
    too. A percentage states its share besides: `50%` states 50 and 1/2.
    """
    text = normalize("NFKC", text).lower()
    numbers: set[Fraction] = set()
    run, end = _Run(), 0
    for token in _TOKEN.finditer(text):
        if not _BETWEEN.fullmatch(text[end : token.start()]):
            run = _Run()
        word, end = token[0], token.end()
        if word in _JOINING:
            continue
        if word == "%":
            numbers |= {run.value / 100}
        elif not run.take(word):
            run = _Run()
        else:
            numbers |= {run.value, run.last}
    return frozenset(numbers)


def states(text: str, number: Fraction) -> bool:
    """Does `text` state `number`, whatever its sign?"""
    return abs(number) in stated_numbers(text)


class _Run:
    """Words that make one number together, read from the left. `last` is the latest of them by itself."""

    def __init__(self) -> None:
        self._thousands, self._below, self.last = Fraction(0), Fraction(0), Fraction(0)

    @property
    def value(self) -> Fraction:
        return self._thousands + self._below

    def take(self, word: str) -> bool:
        """Adds a word; False if it is no number."""
        if (scale := _SCALES.get(word, _SCALES.get(word.removesuffix("s")))) is not None:
            self.last, below = scale, self._below or Fraction(1)
            if scale >= 1000:
                self._thousands, self._below = self._thousands + below * scale, Fraction(0)
            else:
                self._below = below * scale
            return True
        number = _SMALL[word] if word in _SMALL else read_number(word)
        if number is None:
            return False
        self.last = number
        if word not in _SMALL:
            self._thousands, self._below = Fraction(0), number
        elif self._is_followed_by(number):
            self._below += number
        else:
            self._below = number
        return True

    def _is_followed_by(self, number: Fraction) -> bool:
        """Two hundred and twenty, twenty-four, two and a half."""
        units = number < 10 and self._below >= 20 and self._below % 10 == 0
        return number < 1 or units or self._below % 100 == 0
