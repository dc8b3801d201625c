"""Which option an answer names. The rule:

1. What counts is what stands in the last `\\boxed{...}`, and where there is none, on the last answer line (`Answer: C`).
2. One letter, alone or in brackets, is that option: `C`, `(C)`, `\\text{C}`, `**c**`, `option C`.
3. A letter and a text behind it (`C) 42`) is that option, unless the text is that of another one: then the answer
   contradicts itself and names none.
4. Several different letters (`A and C`, `A, C`, `A or C`) name none.
5. Without a letter, the whole text of one option is that option.
6. Anything else names none.

An answer that names none is wrong. It is not unscored: the policy has been asked for one letter.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from envs.choice.options import LETTERS
from envs.math.writing import TEXT, tidy

_LONGEST = 1000
"""Characters of an answer beyond those of the longest option: of what is longer, reading takes long."""
_WORDS = re.compile(
    r"(?i)^(?:the\s+)?(?:(?:final|correct|best|right)\s+)?(?:answer|option|choice)(?:\s+is)?\b\s*:?\s*"
)
_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?")
_BEFORE_TEXT = re.compile(
    r"(?:\(\s*([A-Z])\s*\)|\[\s*([A-Z])\s*\]|([A-Z])\s*[).:])\s*(?=\S)|([A-Z])\s+[-\u2013\u2014]\s+"
)
_BETWEEN = re.compile(r"\s*(?:,|;|/|&|\+|\band\b|\bor\b|\s)\s*")
_NEXT = r"[(\[]?\s*[A-Za-z]\s*[)\]]?"


class NamedOption(NamedTuple):
    """The letter that an answer names, None where it names none, and why."""

    letter: str | None
    why: str


def chosen(answer: str | None, options: Sequence[str] | None) -> NamedOption:
    """What an answer names, by the rule above.

    Args:
        answer: what counts; None where there is no answer.
        options: in the order shown; None where the question has them in its text, so that rules 3 and 5 know no texts.
    """
    if answer is None:
        return NamedOption(None, "there is no answer")
    if len(answer) > _LONGEST + max(map(len, options or ("",))):
        return NamedOption(None, "the answer is too long for an option")
    letters = LETTERS[: len(options)] if options is not None else LETTERS
    texts = [_plain(option) for option in options or ()]
    words = _without_words(answer)
    if (alone := _ALONE.fullmatch(words)) and alone[1].upper() in letters:
        return NamedOption(alone[1].upper(), "one letter")
    if named := _several(words, letters):
        one = len(named) == 1
        return NamedOption(
            named[0] if one else None, "one letter" if one else f"several letters: {', '.join(named)}"
        )
    if before := _BEFORE_TEXT.match(words):
        letter = next(filter(None, before.groups()))
        if letter in letters:
            return _with_text(letter, _plain(words[before.end() :]), texts)
    places = [place for place, text in enumerate(texts) if text in (_plain(words), _plain(answer))]
    if len(places) == 1:
        return NamedOption(letters[places[0]], "the text of an option")
    return NamedOption(None, "neither a letter nor the text of one option")


def _with_text(letter: str, text: str, texts: Sequence[str]) -> NamedOption:
    """The option of a letter that has a text behind it."""
    if text in texts and LETTERS[texts.index(text)] != letter:
        return NamedOption(None, f"the letter {letter} with the text of {LETTERS[texts.index(text)]}")
    return NamedOption(letter, "a letter with a text")


def _several(words: str, letters: str) -> list[str]:
    """The different letters of a list of nothing but letters; none where it is no list."""
    if not re.fullmatch(rf"{_NEXT}(?:{_BETWEEN.pattern}{_NEXT})+", words):
        return []
    named = [part.strip("()[] ").upper() for part in _BETWEEN.split(words) if part.strip("()[] ")]
    return sorted(set(named)) if all(len(one) == 1 and one in letters for one in named) else []


def _without_words(answer: str) -> str:
    """An answer without LaTeX around its text, bold letters and words such as `option`."""
    text = TEXT.sub(r"\1", tidy(answer)).strip().strip("*_`$\"' ")
    return _WORDS.sub("", text).strip()


def _plain(text: str) -> str:
    """A text as it is compared: tidy LaTeX without spaces and a full stop at its end. Case counts: `mW` is not `MW`."""
    return re.sub(r"\s", "", TEXT.sub(r"\1", tidy(text))).removesuffix(".")
