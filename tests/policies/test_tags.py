"""Tags in a policy's tokens, whichever pieces spell them: where they begin, and rows that have none left."""

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aipo.errors import LoadError
from aipo.method.rows import Code, Row, distil
from aipo.policies.tags import Tags, add_tags
from aipo.policies.tokenizer import HFTokenizer
from aipo.trace import Consult, Fault, Mode, Segment, Trace
from graphs.protocol import Grammar
from kit import tiny
from kit.handmade import agent, consult, policy, prompt, trace

MERGES = [
    *[(".", "<"), ("c", "o"), ("co", "n"), ("<", "con"), ("s", "u"), ("su", "l"), ("sul", "t"), ("Ġ", "<")],
    *[("con", "sult"), ("consult", ":"), ("<", "/"), ("</", "consult"), (">", "Ċ"), ("v", "e"), ("ve", "r")],
]
TOKENIZER = tiny.byte_tokenizer(MERGES)
TAGS = Tags((), ("<consult:{agent}>", "<feedback:{agent}>"), TOKENIZER)
AGENTS = ("verify", "knowledge")
GRAMMAR = Grammar()
OPENING = re.compile(r"<(consult|feedback):[\w.-]{1,64}>")


def tokens(*pieces: str) -> list[int]:
    return [i for piece in pieces for i in TOKENIZER.encode(piece)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["So", "<consult:verify>", "1"], ["S", "o"]),
        (["So", " <consult:verify>1"], ["S", "o", " "]),  # ' <' is one token, of which the space stays
        (["So.<consult:verify>1"], ["S", "o", "."]),
        (["<consult:verify>", "1"], []),
        (["a", "<feedback:knowledge>", "<consult:verify>"], ["a"]),  # the first one
        (["<con", "s", "ult:", "new-agent.2>"], []),  # by other tokens, and of an agent that there is not
        (["<consult:", "a b>"], None),
        (["</consult>", "consult:verify"], None),
    ],
)
def test_the_tokens_before_a_tag(pieces: list[str], expected: list[str] | None):
    ids = np.array(tokens(*pieces), np.int32)
    before = TAGS.before(ids)
    assert (before is not None and [TOKENIZER.decode([i]) for i in before]) == (
        expected if expected is not None else False
    )
    assert TAGS.are_in(ids) == (expected is not None)


def test_tags_that_are_known_by_their_ids_alone():
    assert Tags((7,)).are_in(np.array([1, 7], np.int32))
    assert not Tags((7,)).are_in(np.array([1], np.int32))
    assert Tags((7,)).before(np.array([1, 7], np.int32)) is None


def sentencepiece() -> HFTokenizer:
    """As Llama 2's: the first word of a text gets a space before it."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -1.0) for c in "▁abcdefgiklnorstuvw<>/:")]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return HFTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))


@pytest.mark.parametrize("kind", [tiny.byte_tokenizer, sentencepiece])
def test_tags_become_tokens_of_any_tokenizer(kind: Callable[[], HFTokenizer]):
    old, inner = kind(), kind().inner
    size = len(old)
    added = add_tags(inner, ("<consult:nobody>", "</consult>x", "<feedback:a>"))
    assert list(added) == [size, size + 1, size + 2]
    assert added[size] == old.encode("<consult:nobody>")
    new = HFTokenizer(inner)
    assert [new.token_id(tag) for tag in ("<consult:nobody>", "<feedback:a>")] == [size, size + 2]
    assert new.decode(new.encode("a <feedback:a>b", control=True)) == "a <feedback:a>b"
    assert new.encode("a <feedback:a>b") == old.encode("a <feedback:a>b")
    assert add_tags(inner, ("<consult:nobody>",)) == {}


def test_a_tokenizer_that_writes_another_text_is_refused():
    backend = Backend(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    backend.decoder = decoders.Replace(":", "-")
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(
        LoadError, match=r"policy\.add_tags: got a tokenizer that still cuts \['<consult:a>'\]"
    ):
        add_tags(inner, ("<consult:a>",))


# What a policy may write: words, whole tags, and pieces of tags that meet other pieces across a cut.
PIECES = st.sampled_from(
    [
        *("So ", "12", ".", " ", "\n", "é", "<", ">", ":"),
        *("<con", "sult:", "consult:", "verify", "verify>", "<consult", "<feedback:", "know", "ledge>"),
        *("<consult:verify>", " <consult:knowledge>", ".<consult:verify>", "<consult:nobody>"),
        *("<feedback:verify>", "</consult>", "</consult>\n", "</feedback>"),
    ]
)
TURNS = st.lists(st.lists(PIECES, min_size=1, max_size=7), min_size=2, max_size=5)


def rollout(turns: Sequence[Sequence[str]]) -> Trace:
    """As the graph has it: a turn ends behind the first closing tag; the last one is not looked at."""
    segments: list[Segment] = [prompt(*tokens("?"))]
    consults: list[Consult] = []
    for number, pieces in enumerate(turns):
        ids = tokens(*pieces)
        text = TOKENIZER.decode(ids)
        if (end := text.find("</consult>")) >= 0:
            ids = ids[: next(n for n in range(len(ids) + 1) if len(TOKENIZER.decode(ids[:n])) >= end + 10)]
        written = policy(*ids)
        request = GRAMMAR.parse(TOKENIZER, written.token_ids, AGENTS) if number + 1 < len(turns) else None
        segments.append(written)
        if request is not None:
            at = len(segments) - 1
            reply = "4" if request.fault is None else None
            consults.append(consult(at, request.start, at + 1, reply=reply, fault=request.fault))
            segments.append(agent(*tokens("<feedback:verify>4</feedback>")))
    return trace(*segments, mode=Mode.ASSISTED, consults=tuple(consults))


def own_texts(made: Trace) -> Iterator[str]:
    """What the policy wrote, turn by turn, each turn with a request up to it."""
    starts = {one.request_segment: one.request_start for one in made.consults}
    for i, part in enumerate(made.segments):
        if part.role == "policy":
            text = TOKENIZER.decode(part.token_ids[: starts.get(i)])
            yield text if starts.get(i, 0) is not None else OPENING.split(text)[0]


def written(row: Row) -> str:
    return TOKENIZER.decode(row.token_ids_T[row.codes_T != Code.PROMPT])


@given(TURNS)
@example([["So", " <consult:knowledge>", "1", "</consult>"], ["12"]])
@example([["<con", "<consult:verify>", "1", "</consult>"], ["sult:", "verify>", "12"]])
@example([["<consult:verify>", "1", "</consult>"], ["12", "<con", "sult:", "verify>"]])
@settings(max_examples=400)
def test_no_distilled_row_spells_a_tag(turns: list[list[str]]):
    """And each that could be cut has the policy's own words, whole and in order."""
    made = rollout(turns)
    row = distil(made, TAGS, suppress=False)
    helped = any(one.reply is not None for one in made.consults)
    if row is None:
        *_, last = own_texts(made)
        unopened = any(one.fault is Fault.MALFORMED for one in made.consults)
        assert not helped or unopened or not last or OPENING.search("".join(own_texts(made)))
        return
    assert helped and not OPENING.search(written(row))
    assert written(row) == "".join(own_texts(made))
