"""A policy that writes a given script, and a tokenizer of single characters, for tests, notebooks and trying a graph out.

Neither needs torch.

    tokenizer = CharTokenizer(specials=("<consult:verify>", "</consult>"))
    policy = ScriptedPolicy(tokenizer, ["<consult:verify>2+2=5?</consult>", "2+2=4"])
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from aipo.errors import PolicyError
from aipo.policies.base import Completion, SampleRequest, Tokenizer

_PRINTABLE = "\n" + "".join(c for c in string.printable if c.isprintable())
_ENTROPY = 0.5
_EOS = "<eos>"


class CharTokenizer:
    """One id per character and one per special string.

    Args:
        specials: strings that are one token where the text is trusted (`control=True`).
        alphabet: the characters it knows; printable ASCII and the line end by default. Any other
            character becomes `unk_id`, whose text is U+FFFD.

    The end token `<eos>` is special, too.
    """

    def __init__(self, specials: Sequence[str] = (), alphabet: str | None = None) -> None:
        marks = dict.fromkeys((_EOS, *specials))
        self._texts = (*marks, "\ufffd", *dict.fromkeys(_PRINTABLE if alphabet is None else alphabet))
        self._ids = {text: token_id for token_id, text in enumerate(self._texts)}
        longest_first = sorted(marks, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) + "|.", re.DOTALL)
        self.eos_id = self._ids[_EOS]
        self.unk_id = self._ids["\ufffd"]
        self.turn = "", ""

    def __len__(self) -> int:
        return len(self._texts)

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        pieces = self._control.findall(text) if control else text
        return [self._ids.get(piece, self.unk_id) for piece in pieces]

    def encode_prompt(self, text: str, *, untrusted: str = "") -> list[int]:
        """See `aipo.policies.base.Tokenizer.encode_prompt`."""
        if not untrusted:
            return self.encode(text, control=True)
        first, *rest = [self.encode(part, control=True) for part in text.split(untrusted)]
        return [*first, *(i for part in rest for i in (*self.encode(untrusted), *part))]

    def decode(self, token_ids: Sequence[int] | npt.NDArray[np.int32]) -> str:
        return "".join(self._texts[i] for i in token_ids)

    def control_in(self, text: str) -> list[str]:
        plain = self.encode(text)
        return [self._texts[i] for i in dict.fromkeys(self.encode(text, control=True)) if i not in plain]

    def token_id(self, text: str) -> int | None:
        return self._ids.get(text)


class ScriptedPolicy:
    """Writes a script, turn by turn; every log-probability is the same constant.

    It keeps no state, so any number of rollouts can share it. The next text of a sequence is the first one that is
    not found in the context (up to its stop string or end token) after the text before it; one that is also part of
    the prompt is passed over.

    Args:
        tokenizer: texts of the script are encoded as control text: a policy may write tags.
        script: the texts, or a function from the context's text to the next one. The end token is added where a
            text holds no stop string.
        logprob: of every token, in nats.
    """

    version = 0

    def __init__(
        self, tokenizer: Tokenizer, script: Sequence[str] | Callable[[str], str], *, logprob: float = -0.1
    ) -> None:
        self.tokenizer = tokenizer
        self._script = script
        self._logprob = logprob

    async def sample(self, request: SampleRequest) -> Completion:
        """See `aipo.policies.base.Policy.sample`; temperature, seed and session change nothing.

        Raises:
            PolicyError: the script has run out, or it writes a forbidden token.
        """
        written, finish = self._turn(self.tokenizer.decode(request.token_ids), request.stop)
        if len(written) > request.max_tokens:
            written, finish = written[: request.max_tokens], "length"
        forbidden = sorted(set(written) & set(request.forbidden_ids))
        if forbidden:
            raise PolicyError(
                f"script: got the forbidden tokens {[self.tokenizer.decode([i]) for i in forbidden]}, "
                f"in {self.tokenizer.decode(written)!r}"
            )
        return Completion(
            token_ids=np.array(written, np.int32),
            logprobs=np.full(len(written), self._logprob, np.float32),
            entropies=np.full(len(written), _ENTROPY, np.float32),
            finish=finish,
            policy_version=self.version,
        )

    def _turn(self, context: str, stop: tuple[str, ...]) -> tuple[list[int], Literal["stop", "eos"]]:
        if callable(self._script):
            return self._cut(self._script(context), stop)
        position = 0
        for text in self._script:
            written, finish = self._cut(text, stop)
            found = context.find(self.tokenizer.decode(written), position)
            if found < 0:
                return written, finish
            position = found + len(self.tokenizer.decode(written))
        raise PolicyError(f"script of {len(self._script)} texts: got one turn more, after {context[-80:]!r}")

    def _cut(self, text: str, stop: tuple[str, ...]) -> tuple[list[int], Literal["stop", "eos"]]:
        """Ids of `text` up to the token that completes a stop string, or with the end token."""
        token_ids = self.tokenizer.encode(text, control=True)
        for end in range(1, len(token_ids) + 1):
            if token_ids[end - 1] == self.tokenizer.eos_id:
                return token_ids[:end], "eos"
            if stop and any(s in self.tokenizer.decode(token_ids[:end]) for s in stop):
                return token_ids[:end], "stop"
        return [*token_ids, self.tokenizer.eos_id], "eos"
