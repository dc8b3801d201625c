"""Thinking is taken out of a reply, wherever its server put it."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage

from aipo.util.http.reply import THINKING_TAGS, Reply, read_reply, split_thinking

HARMONY = {"<|channel|>analysis<|message|>": "<|start|>assistant<|channel|>final<|message|>"}


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        ("3@7=582", "3@7=582", None),
        ("  two\n lines ", "  two\n lines ", None),
        ("", "", None),
        ("<think>hm</think>3@7=582", "3@7=582", "hm"),
        ("<think>\nhm\n</think>\n\nright\n", "right", "hm"),
        ("<think>\n\n</think>\n\nright", "right", ""),
        ("<think>one</think>so <think>two</think>right", "so right", "one\n\ntwo"),
        ("[THINK]hm[/THINK]right", "right", "hm"),
        ("<thinking>hm</thinking>right", "right", "hm"),
        ("<Think>hm</THINK>right", "right", "hm"),
        # its server cut it
        ("<think>hm", "", "hm"),
        ("<think>", "", ""),
        ("right <think>or is it", "right", "or is it"),
        # the chat template had written the opening tag
        ("hm\n</think>\n\nright", "right", "hm"),
        ("hm</think>", "", "hm"),
        # tags within thinking, and one too many
        ("<think>a</think>right</think>\n", "right", "a"),
        ("<think>a <think> b</think>c</think>right", "right", "a <think> b\n\nc"),
        ("<think>[THINK] and </thinking></think>right", "right", "[THINK] and </thinking>"),
        # no tag
        ("a < think > b", "a < think > b", None),
        ("<musing>hm</musing>right", "<musing>hm</musing>right", None),
        (
            "<verdict>wrong</verdict>\n<reason>523-7 is 516</reason>",
            "<verdict>wrong</verdict>\n<reason>523-7 is 516</reason>",
            None,
        ),
        (
            "A <thought> experiment shows that 5 is prime.",
            "A <thought> experiment shows that 5 is prime.",
            None,
        ),
        ("<reasoning>hm</reasoning>right", "<reasoning>hm</reasoning>right", None),
        # other models'
        ("<seed:think>hm</seed:think>right", "right", "hm"),
        ("<mm:think>hm", "", "hm"),
        ("◁think▷hm◁/think▷right", "right", "hm"),
        ("<|START_THINKING|>hm<|END_THINKING|>right", "right", "hm"),
        ("<|begin_of_thought|>hm<|end_of_thought|>right", "right", "hm"),
        ("<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>right", "right", "hm<|end|>"),
    ],
)
def test_thinking_is_split_off(text: str, answer: str, thinking: str | None) -> None:
    assert split_thinking(text, THINKING_TAGS) == (answer, thinking)


@pytest.mark.parametrize(
    ("tags", "text", "split"),
    [
        ({"<reasoning>": "</reasoning>"}, "<reasoning>hm</reasoning>right", ("right", "hm")),
        ({"<reasoning>": "</reasoning>"}, "<think>hm</think>right", ("<think>hm</think>right", None)),
        ({"---": "---"}, "---hm---right", ("right", "hm")),
        ({}, "<think>hm</think>right", ("<think>hm</think>right", None)),
        (
            HARMONY,
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>right",
            ("right", "hm<|end|>"),
        ),
        (HARMONY, "<|channel|>analysis<|message|>hm", ("", "hm")),
    ],
)
def test_the_tags_are_configurable(tags: dict[str, str], text: str, split: tuple[str, str | None]) -> None:
    assert split_thinking(text, tags) == split


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ({"content": "right"}, Reply("right", None, None)),
        (
            {"content": "right", "additional_kwargs": {"reasoning_content": "hm"}},
            Reply("right", "hm", None),
        ),
        (
            {"content": "<think>so</think>right", "additional_kwargs": {"reasoning": "hm"}},
            Reply("right", "hm\n\nso", None),
        ),
        (
            {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "right"}]},
            Reply("right", "hm", None),
        ),
        ({"content": [{"type": "reasoning", "reasoning": "hm"}]}, Reply("", "hm", None)),
        ({"content": "<think></think>right"}, Reply("right", None, None)),
        ({"content": "ri", "response_metadata": {"finish_reason": "length"}}, Reply("ri", None, "length")),
        ({"content": "ri", "response_metadata": {"done_reason": "stop"}}, Reply("ri", None, "stop")),
        (
            {"content": "ri", "response_metadata": {"incomplete_details": {"reason": "max_output_tokens"}}},
            Reply("ri", None, "max_output_tokens"),
        ),
        ({"content": "ri", "response_metadata": {"finish_reason": None}}, Reply("ri", None, None)),
    ],
)
def test_a_message_is_read(message: dict[str, Any], reply: Reply) -> None:
    assert read_reply(AIMessage(**message), THINKING_TAGS) == reply


@pytest.mark.parametrize(
    ("finish", "cut"),
    [
        ("length", True),
        ("MAX_TOKENS", True),
        ("max_output_tokens", True),
        ("model_context_window_exceeded", True),
        ("stop", False),
        (None, False),
    ],
)
def test_a_limit_on_tokens_cuts_a_reply(finish: str | None, cut: bool) -> None:
    assert Reply("ri", None, finish).cut is cut
