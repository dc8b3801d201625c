"""What the doctor says of the chat template of an agent's model: each trap, by templates with and without it."""

import pytest
from trl.chat_template_utils import qwen2_5_chat_template, qwen3_chat_template

from aipo.doctor.chat import TRAPS, both, check_chat
from aipo.rollout.chat.graph import rollout_graph
from aipo.rollout.chat.settings import DEFAULTS
from aipo.rollout.chat.template import template_of
from kit import engines, tiny
from kit.chat_agents import calculator, tool_tokenizer

GRAPH = rollout_graph(calculator(), "mine", DEFAULTS)


@pytest.mark.parametrize(
    ("template", "otherwise"),
    [
        # It puts an empty block of thinking before an answer, and takes it out when something follows.
        (
            qwen3_chat_template,
            [trap.name for trap in TRAPS if trap.name != "thinking before a tool's result"],
        ),
        (qwen2_5_chat_template, ["a tool call in other spaces"]),
    ],
    ids=["qwen3", "qwen2.5"],
)
def test_the_traps_of_a_template(template: str, otherwise: list[str]):
    tokenizer = tool_tokenizer(template)
    differing = [
        trap.name
        for trap in TRAPS
        for kept, rendered in [both(template_of(tokenizer, "p"), tokenizer, trap)]
        if kept != rendered
    ]
    assert differing == otherwise
    *rest, histories = check_chat(GRAPH, tokenizer)
    assert [(check.status, check.what) for check in rest] == [
        ("ok", "tool calls"),
        ("ok", "chat"),
        ("warn", "chat"),
    ]
    assert rest[-1].found.endswith(f"anew: {', '.join(otherwise)}")
    assert "begin another history" in histories.found


def test_what_stays_is_what_was_sampled():
    tokenizer = tool_tokenizer()
    trap = next(trap for trap in TRAPS if trap.name == "thinking before a further question")
    kept, rendered = both(template_of(tokenizer, "p"), tokenizer, trap)
    assert "<think>\nI look it up.\n</think>\n\nA cat.<|im_end|>\n<|im_start|>user\nWhat is a lynx?" in kept
    assert "I look it up." not in rendered


def test_a_template_without_tools_is_for_agents_without_tools():
    checks = list(check_chat(GRAPH, tiny.chat_tokenizer()))
    assert [check.status for check in checks] == ["warn", "ok", "ok"]
    assert checks[1].found.endswith("renders it: a further question, thinking before a further question")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "got none (HFTokenizer), allowed a model with one"),
        ("{{ messages[0].content }}", "got no control token behind an answer"),
        ("{% if messages|length > 1 %}{{ raise_exception('one message') }}{% endif %}", "which it refuses (one message)"),
    ],
)  # fmt: skip
def test_a_template_that_shows_no_chat_fails(template: str | None, said: str):
    checks = list(check_chat(GRAPH, tiny.chat_tokenizer(template=template)))
    assert checks[-1].status == "fail" and said in checks[-1].found


def test_other_graphs_have_no_such_check():
    graph = engines.chain(ask=engines.ask, think=engines.think, mark=engines.mark)
    assert list(check_chat(graph, tool_tokenizer())) == []
