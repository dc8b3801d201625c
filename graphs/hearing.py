"""What a peer hears: a further turn of its chat, in which others' words stand."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from aipo.errors import LoadError
from aipo.policies import Tokenizer
from aipo.rollout import Prompt
from graphs.protocol import Feedback, Grammar

_PLACE = re.compile("\ufdd2(\\d+)\ufdd3")  # characters that no text may hold
_GRAMMAR = Grammar()


class Heard(NamedTuple):
    """A peer's words, as a prompt is given them."""

    name: str
    words: str


def hear(
    tokenizer: Tokenizer, prompt: Prompt, section: str, others: Sequence[Heard], *, max_words: int
) -> list[tuple[str, Feedback]]:
    """The turn in pieces, one for each of the others: its name, and its words with the text around them.

    Words are plain text, whatever they spell, as agents' replies are. The last piece ends where the hearer answers.

    Args:
        max_words: tokens of one peer's words, of which a longer text is cut.
    """
    before, after = tokenizer.turn
    texts, order = _rendered(prompt, section, [other.name for other in others])
    texts = [before + texts[0], *texts[1:-1], texts[-1] + after]
    pieces = list[tuple[str, Feedback]]()
    for number, place in enumerate(order):
        words = _GRAMMAR.words(tokenizer, others[place].words, max_tokens=max_words)
        head = tokenizer.encode(texts[number], control=True)
        tail = tokenizer.encode(texts[-1], control=True) if number + 1 == len(order) else []
        framed = replace(
            words,
            token_ids=[*head, *words.token_ids, *tail],
            reply=slice(len(head), len(head) + len(words.token_ids)),
        )
        pieces.append((others[place].name, framed))
    return pieces


def check_words(prompt: Prompt, section: str) -> None:
    """Refuses a section that does not show the words of each peer once.

    Raises:
        LoadError: so it is.
    """
    _, order = _rendered(prompt, section, ["a", "b"])
    if sorted(order) != [0, 1]:
        raise LoadError(
            f"prompt {prompt.file}, section {section!r}: got the words of two peers {len(order)} times, allowed each once "
            "({% for peer in peers %}{{ peer.words }}{% endfor %})"
        )


def _rendered(prompt: Prompt, section: str, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The texts around the peers' words, and whose words stand between them."""
    peers = [Heard(name, f"\ufdd2{number}\ufdd3") for number, name in enumerate(names)]
    parts = _PLACE.split(prompt.render(section, peers=peers))
    return parts[::2], [int(number) for number in parts[1::2]]
