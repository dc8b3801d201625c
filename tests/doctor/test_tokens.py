"""Checks of tokenizer and chat template, each with one that is wrong in one way."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.tokens import check_appending, check_prompt, check_tags
from aipo.policies.tokenizer import HFTokenizer
from kit.tiny import CHAT_TAGS, CHAT_TEMPLATE, chat_tokenizer

CHAT, TAGGED = chat_tokenizer(), chat_tokenizer(tags=CHAT_TAGS)
SUPPRESSED = "method.suppress_share=0.5"


def config(*overrides: str) -> Experiment:
    agent = "agents={verify: {graph: 'graphs.verify:verify'}}"
    return load_experiment("grpo", [agent, "evaluate.settings=[solo]", *overrides])


def statuses(tokenizer: HFTokenizer) -> dict[str, str]:
    ids = tokenizer.encode_prompt("1+1=?")
    return {check.what: check.status for check in check_prompt(tokenizer, {"solo": ids})}


def test_a_chat_template_as_it_should_be() -> None:
    template, end = check_prompt(CHAT, {"solo": CHAT.encode_prompt("1+1=?")})
    assert (template.status, end.status) == ("ok", "ok")
    assert template.found == "prompts end with '<|im_start|>assistant\\n', open for the assistant"
    assert end.found == "<|im_end|> ends the assistant's turn"


def test_a_prompt_that_does_not_end_open() -> None:
    ids = CHAT.encode_prompt("1+1=?")
    first, *_ = check_prompt(CHAT, {"solo": ids, "assisted": ids[:-1]})
    assert (first.status, first.found) == (
        "fail",
        "assisted prompts do not end with '<|im_start|>assistant\\n'",
    )


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (CHAT_TEMPLATE.partition("{% if")[0], "<|im_end|>", {"chat template": "fail"}),
        (CHAT_TEMPLATE, "<|end|>", {"chat template": "ok", "end token": "fail"}),
        (None, "<|im_end|>", {"chat template": "warn"}),  # a chat model's tokens, and no template
    ],
)
def test_templates_that_are_wrong(template: str | None, eos: str, expected: dict[str, str]) -> None:
    assert statuses(chat_tokenizer(template=template, eos=eos)) == expected


def test_no_template_is_no_fault_of_a_model_that_does_not_chat() -> None:
    assert statuses(words()) == {"chat template": "ok"}


def test_a_first_token_that_comes_twice() -> None:
    begun = chat_tokenizer()
    begun.inner.bos_token = "<|end|>"
    begin = begun.inner.bos_token_id
    made = check_prompt(begun, {"solo": [begin, begin, *begun.encode_prompt("x")]})
    assert [check.found for check in made if check.status == "fail"] == [
        "solo prompts begin with the first token twice"
    ]


def words() -> HFTokenizer:
    """One that eats spaces: what is appended does not read as what was written."""
    texts = ["<unk>", "17*23=391", ":", "right", ".", "So", "it", "is", "Let"]
    vocab = {text: i for i, text in enumerate(texts)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    return HFTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    )


def test_feedback_can_be_appended() -> None:
    assert check_appending(CHAT, CHAT.encode_prompt("1+1=?"), list(CHAT_TAGS)).status == "ok"
    assert check_appending(TAGGED, CHAT.encode_prompt("x"), list(CHAT_TAGS)).status == "ok"
    check = check_appending(words(), words().encode("Let it"), [])
    assert (check.status, check.what) == ("fail", "feedback")


@pytest.mark.parametrize(
    ("overrides", "tokenizer", "status", "says"),
    [
        ([SUPPRESSED], TAGGED, "ok", "keeps each; tokens: <consult:verify> (1), <feedback:verify> (1)"),
        ([], CHAT, "ok", "<feedback:verify> (17); policy.add_tags=true makes each one token"),
        (
            [SUPPRESSED],
            CHAT,
            "fail",
            "rollout.suppress_tags: got ['<consult:verify>', '<feedback:verify>'], which",
        ),
        ([], words(), "fail", "changes <consult:verify>"),
    ],
)
def test_tags(overrides: list[str], tokenizer: HFTokenizer, status: str, says: str) -> None:
    """Only where they are suppressed, as by training, does each have to be one token."""
    (check,) = check_tags(config(*overrides), tokenizer)
    assert (check.status, check.what) == (status, "tags")
    assert says in check.found


def test_without_agents_there_are_no_tags() -> None:
    assert list(check_tags(config("agents={}", SUPPRESSED), CHAT)) == []
