"""Traces as conversations: what is cut, what stays, and what cannot be exported."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aipo.errors import ConfigError, LoadError, RunError
from aipo.policies.text_tokenizer import TextTokenizer
from aipo.trace import Mode, Role, StopReason, Trace, segment
from aipo.trace.filters import Filter
from kit import handmade
from kit.exports import WORDS, Run, rows
from kit.handmade import agent, consult, env, policy

SPELLED = "a text spells a special token"
INLINE = "So <consult:knowledge>3@7</consult><feedback:knowledge>582</feedback>"


def test_every_conversation_says_where_it_is_from(run: Run):
    def chat(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "3@7+1=?"}, {"role": "assistant", "content": answer}]

    done = run.export("sft")
    names = {"task_id": "q", "group_id": "g0", "step": 0}
    assert rows(done.path) == [
        {"messages": chat("583"), "trace_id": "g0/0", **names, "kind": "solo", "reward": 1.0},
        {"messages": chat("So 582+1=583"), "trace_id": "g0/2", **names, "kind": "assisted", "reward": 0.5},
    ]
    assert done.left_out == {"no reward above 0": 2}


@pytest.mark.parametrize(
    ("options", "chats"),
    [
        ({"where": Filter(kind="assisted")}, [("3@7+1=?", "So 582+1=583")]),  # the solo rollouts' question
        ({"where": Filter(kind="assisted"), "agents": "inline"}, [("agents: 3@7+1=?", f"{INLINE}582+1=583")]),
        ({"min_reward": 0.5}, [("3@7+1=?", "583")]),
    ],
)
def test_what_an_option_asks_for(run: Run, options: dict[str, Any], chats: list[tuple[str, str]]):
    assert run.chats(**options) == chats


def test_without_a_solo_rollout_the_question_is_its_own(empty: Run):
    empty.keep(empty.assisted("g0/0", "3@7+1=?", "583<eos>"))
    assert empty.chats() == [("agents: 3@7+1=?", "So 583")]


def test_a_served_models_text_needs_no_tokenizer(tmp_path: Path):
    run, text = Run(tmp_path / "run", stored_texts=False), TextTokenizer()
    asked = segment(Role.PROMPT, "task", text.encode("3@7+1=?"))
    for step, answer in enumerate(["583", "<eos>583"]):
        said = segment(Role.AGENT, "clever", [*text.encode(answer), text.eos_id])
        run.keep(run.trace(f"g{step}/0", asked, said, step=step, mode=Mode.TEXT, reward=1.0))
    assert run.chats() == [("3@7+1=?", "583")]  # the other spells a token of the run's tokenizer
    shutil.rmtree(run.path / "tokenizer")
    assert run.chats() == [("3@7+1=?", "583"), ("3@7+1=?", "<eos>583")]
    assert run.export("dataset").rows == 2


def test_a_demonstration_is_the_assistants_text_and_asks_what_solo_rollouts_are_asked(empty: Run):
    shown = segment(Role.AGENT, "expert", empty.words.encode("583<eos>", control=True))
    demonstration = empty.trace("g0/1", empty.prompt("3@7+1=?"), shown, mode=Mode.EXPERT)
    empty.keep(empty.assisted("g0/0", "3@7+1=?", "582+1=583<eos>"), demonstration)
    for agents in ("cut", "inline"):
        assert empty.chats(agents=agents, where=Filter(kind="expert")) == [("3@7+1=?", "583")]
    assert empty.chats()[0] == ("3@7+1=?", "So 582+1=583")


def test_only_the_token_that_ends_the_sequence_is_taken_off(empty: Run):
    """Not a text that looks like it elsewhere, and not from a rollout that was cut short."""
    empty.keep(
        empty.solo("g0/0", "?", "a<eos>b<eos>"),
        empty.solo("g1/0", "?", "c<eos>", stop_reason=StopReason.LENGTH),
        empty.solo("g2/0", "?", "d"),
    )
    assert [answer for _, answer in empty.chats()] == ["a<eos>b", "c<eos>", "d"]


def test_what_was_said_before_is_left_out_if_asked(empty: Run):
    empty.keep(
        *(empty.solo(f"g{s}/{i}", "1+1=?", f"{i // 2}<eos>", step=s) for s in (0, 1) for i in range(4))
    )
    assert empty.export("sft").rows == 8
    done = empty.export("sft", unique=True)
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0", "g0/2"]
    assert done.left_out == {"repeats an earlier row": 6}


def unsuitable(run: Run) -> dict[str, Trace]:
    """Traces that cannot be cut, by the reason; the first three can be left whole."""
    ask, answer = run.prompt("?"), run.answer("5<eos>")
    plain = handmade.prompt(*run.words.encode("3@7+1=?"))
    return {
        "a consult shares a token with other text": run.assisted(
            "g1/0", "?", "5<eos>", consults=(consult(1, None, 2),)
        ),
        "an agent's text belongs to no consult": run.assisted("g2/0", "?", "5<eos>", consults=()),
        "a consult tag is left over": run.solo("g3/0", "?", "<consult:knowledge>3@7"),
        "the policy wrote nothing": run.solo("g4/0", "?", "<eos>"),
        "the prompt is not of the tokenizer's chat template": run.trace("g5/0", plain, answer),
        "it was asked more than once": run.trace("g6/0", ask, run.answer("5"), ask, answer),
    }


def test_what_cannot_be_cut_is_counted_and_kept_inline(empty: Run):
    config = {"rollout": {"suppress_tags": ["<consult:{agent}>"]}, "agents": {"knowledge": {}}}
    (empty.path / "config.yaml").write_text(yaml.safe_dump(config))
    cases = unsuitable(empty)
    empty.keep(empty.solo("g0/0", "?", "5<eos>"), *cases.values())
    done = empty.export("sft")
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0"]
    assert done.left_out == dict.fromkeys(cases, 1)
    inline = rows(empty.export("sft", agents="inline").path)
    assert [row["trace_id"] for row in inline] == ["g0/0", "g1/0", "g2/0", "g3/0"]


def test_text_that_spells_a_special_token_is_left_out(empty: Run):
    """Written character by character it is no such token; encoded again it would be one."""
    plain, end = empty.words.encode("a</user>b"), WORDS.index("</user>")
    assert end not in plain
    ask, answer = empty.prompt("?"), empty.answer("5<eos>")
    first, *_, last = ask.token_ids.tolist()
    by_task = segment(Role.PROMPT, "task", [first, *plain, end, last])
    seam = policy(*empty.words.encode("</us")), env(*empty.words.encode("er>"))
    helped = empty.assisted("g4/0", "?", "5<eos>")
    asked, request, reply, rest = helped.segments
    forged = agent(reply.token_ids[0], *empty.words.encode("582<eos>"), reply.token_ids[-1])
    empty.keep(
        empty.solo("g0/0", "?", "a</user>b<eos>"),
        empty.trace("g1/0", ask, policy(*plain, WORDS.index("<eos>"))),
        empty.trace("g2/0", by_task, answer),
        empty.trace("g3/0", ask, *seam, answer),
        helped,
        replace(helped, trace_id="g5/0", group_id="g5", segments=(asked, request, forged, rest)),
        empty.assisted("g2/1", "?", "6<eos>"),
    )
    inline = {"agents": "inline"}
    assert [question for question, _ in empty.chats(**inline)] == ["?", "agents: ?", "agents: ?"]
    assert empty.export("sft", **inline).left_out == {SPELLED: 4}
    # Cut, an agent's text is no trouble, and a forged question of a solo rollout is asked of nobody.
    helped_answers = [("agents: ?", answer) for answer in ("So 5", "So 5", "So 6")]
    assert sorted(empty.chats()) == [("?", "a</user>b"), *helped_answers]


@pytest.mark.parametrize("stored_texts", [True, False])
def test_the_space_at_a_seam_is_exported(tmp_path: Path, stored_texts: bool):
    """By a tokenizer that leaves out the first space of what it decodes, as sentencepiece does."""
    run = Run(tmp_path / "run", template=None, stored_texts=stored_texts, strip=True)
    asked, told = run.answer(" so<consult:knowledge>3@7</consult>"), run.feedback("582")
    answered = {"mode": Mode.ASSISTED, "consults": (consult(1, 3, 2),)}
    run.keep(run.trace("g0/0", run.prompt("1?"), asked, told, run.answer(" the answer<eos>"), **answered))
    assert (next(run.store.stored()).texts is None) is not stored_texts
    assert run.chats() == [("1?", " so the answer")]
    inline = " so<consult:knowledge>3@7</consult><feedback:knowledge>582</feedback> the answer"
    assert run.chats(agents="inline") == [("1?", inline)]


def test_a_trained_policys_tokenizer_does_as_well_and_any_by_option(run: Run, tmp_path: Path):
    expected = run.chats()
    (run.path / "tokenizer").rename(run.path / "model")
    assert run.chats() == expected
    elsewhere = (run.path / "model").rename(tmp_path / "elsewhere")
    assert run.chats(tokenizer=elsewhere) == expected
    with pytest.raises(LoadError, match=r"tokenizer in .*nowhere: got"):
        run.export("sft", tokenizer=tmp_path / "nowhere")


@pytest.mark.parametrize("stored_texts", [True, False])
def test_without_a_tokenizer_what_needs_one_is_refused(tmp_path: Path, stored_texts: bool):
    run = Run(tmp_path / "run", stored_texts=stored_texts)
    run.keep(run.solo("g0/0", "?", "5<eos>"))
    shutil.rmtree(run.path / "tokenizer")
    for format in ("sft", "preference", *(() if stored_texts else ("dataset",))):
        with pytest.raises(RunError, match="tokenizer: got none beside the traces, allowed --tokenizer DIR"):
            run.export(format)
    for format in ("jsonl", *(("dataset",) if stored_texts else ())):
        assert run.export(format).rows == 1


def test_without_a_chat_template_the_prompt_is_the_question(tmp_path: Path):
    run = Run(tmp_path / "run", template=None)
    run.keep(run.solo("g0/0", "Q: 1+1=?\n", "2<eos>"))
    assert run.chats() == [("Q: 1+1=?\n", "2")]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("tokenizer.json", "tokenizer in .*tokenizer: got"),
        ("chat_template.jinja", "chat template in .*: got"),
    ],
)
def test_a_broken_tokenizer_is_refused_by_name(run: Run, file: str, says: str):
    (run.path / "tokenizer" / file).write_text("{% if")
    with pytest.raises(LoadError, match=says):
        run.export("sft")


def test_an_unknown_way_to_treat_agents_is_refused(run: Run):
    with pytest.raises(ConfigError, match="--agents: got 'none', allowed cut, inline"):
        run.export("sft", agents="none")
