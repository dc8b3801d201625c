"""Texts of single tokens, by the tokenizer that the run kept."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


def after_seam(texts: Sequence[str], text: str) -> list[str]:
    """Texts of a segment's tokens, with the space before the first one that only its neighbours tell.

    Args:
        texts: of the tokens, decoded without what is before the segment.
        text: of the segment in its context.
    """
    joined = "".join(texts)
    space = text.removesuffix(joined)
    if not texts or not joined or not space.isspace():
        return list(texts)
    return [space + texts[0], *texts[1:]]


class Tokens:
    """Splits a context's text at its tokens.

    Args:
        tokenizer: the run's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def find(cls, folders: Iterable[Path]) -> "Tokens | None":
        """From the first of `folders` that has a `tokenizer.json`; None if none has one that can be read."""
        for path in (folder / "tokenizer.json" for folder in folders):
            if path.is_file():
                try:
                    return cls(Tokenizer.from_file(str(path)))
                except Exception:  # the library has no error of its own; ids are then shown without texts
                    return None
        return None

    def texts(self, ids: Sequence[int]) -> list[str]:
        """One text per token; joined they are the text of all of them.

        A character that takes several tokens is the last one's text; the others' is empty.
        """
        plain = [int(i) for i in ids]
        stream = DecodeStream(skip_special_tokens=False)
        try:
            parts = [stream.step(self._tokenizer, i) or "" for i in plain]
        except Exception:  # of the library, for bytes that are no text
            return [self._tokenizer.decode([i], skip_special_tokens=False) for i in plain]
        whole = self._tokenizer.decode(plain, skip_special_tokens=False)
        if parts and whole.startswith(joined := "".join(parts)):
            parts[-1] += whole[len(joined) :]
        return parts
