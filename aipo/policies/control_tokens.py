"""Control tokens: what a tokenizer holds beside plain text, and texts that only look like it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from tokenizers import AddedToken


def control_tokens(added: Mapping[int, AddedToken], unknown: str | None) -> dict[int, str]:
    """Text of every added token that untrusted text must not become, by id.

    The unknown token and white space (Gemma adds line ends) control nothing.

    Args:
        added: tokens that were added to the model's own vocabulary.
        unknown: text of the unknown token.
    """
    return {
        token_id: token.content
        for token_id, token in added.items()
        if token.content != unknown and (token.special or not token.content.isspace())
    }


def spells_control(text: str, token_ids: Iterable[int], controls: Mapping[int, str]) -> bool:
    """Would `text` become more control tokens than the tokens hold that it is the text of?"""
    if not controls:
        return False
    # The longest first: so do tokenizers find them.
    spelled = re.compile("|".join(map(re.escape, sorted(controls.values(), key=len, reverse=True))))
    held = Counter(controls[token_id] for token_id in token_ids if token_id in controls)
    return bool(Counter(spelled.findall(text)) - held)
