"""Control tokens, and texts that only look like them."""

import pytest
from tokenizers import AddedToken

from aipo.policies.control_tokens import control_tokens, spells_control

CONTROLS = {7: "<eos>", 8: "<e", 9: "</consult>"}


def test_every_added_token_controls_but_the_unknown_one_and_white_space():
    added = {
        0: AddedToken("<unk>", special=True),
        1: AddedToken("<eos>", special=True),
        2: AddedToken("<tool_call>", special=False),
        3: AddedToken("\n\n", special=False),
    }
    assert control_tokens(added, "<unk>") == {1: "<eos>", 2: "<tool_call>"}
    assert control_tokens(added, None).keys() == {0, 1, 2}


@pytest.mark.parametrize(
    ("text", "token_ids", "spelled"),
    [
        ("a<eos>b", [1, 7, 2], False),
        ("a<eos>b", [1, 2, 3], True),
        ("<eos><eos>", [7, 2, 3], True),
        ("<eos></consult>", [7, 9], False),
        ("<eos></consult>", [9, 1], True),
        ("<eos>", [8, 1], True),  # another token and text: together they would be encoded as one
        ("a<eos", [1, 8, 1], False),
        ("a", [1, 7], False),
        ("a<EOS>", [1], False),
    ],
)
def test_text_that_would_become_a_control_token(text: str, token_ids: list[int], spelled: bool):
    assert spells_control(text, token_ids, CONTROLS) is spelled


def test_without_control_tokens_nothing_is_spelled():
    assert not spells_control("<eos>", [1], {})
