"""Exports: rows written out, and what TRL and `datasets` make of them."""

import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard
from rich.console import Console
from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from aipo.errors import ConfigError, LoadError, RunError
from aipo.export import dataset, selection
from aipo.export.dataset import COLUMNS, card
from aipo.export.run import Exported, ExportOptions, export_run
from aipo.export.run import export as export_traces
from aipo.policies.tokenizer import HFTokenizer
from aipo.run import run_of
from aipo.trace import Mode, Role, Segment, StopReason, Trace, segment
from aipo.trace.arrow import SCHEMA
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from kit import handmade, tiny
from kit.handmade import agent, consult, env, policy, trace

SPECIAL = ("<pad>", "<eos>", "<user>", "</user>", "<assistant>")
TAGS = ("<consult:knowledge>", "</consult>", "<feedback:knowledge>", "</feedback>", "<notice>", "</notice>")
WORDS = (*SPECIAL, *TAGS, *map(chr, range(32, 127)), "\n")
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<user>{{ m.content }}</user>"
    "{% else %}<assistant>{% generation %}{{ m.content }}<eos>{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE, *, strip: bool = False) -> PreTrainedTokenizerFast:
    """One token per character, and one for each tag."""
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = (
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)]) if strip else decoders.Fuse()
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=[*SPECIAL[2:], *TAGS],
    )
    made.chat_template = template
    return made


class Run:
    """A run folder, and traces to put into it."""

    def __init__(
        self, path: Path, *, template: str | None = TEMPLATE, stored_texts: bool = True, strip: bool = False
    ) -> None:
        self.path = path
        inner = tokenizer(template, strip=strip)
        self.words = HFTokenizer(inner)
        path.mkdir()
        inner.save_pretrained(path / "tokenizer")
        self.store = TraceStore(path / "traces", decode=self.words.decode if stored_texts else None)

    def asks(self, question: str) -> Segment:
        return segment(Role.PROMPT, "task", self.words.encode_prompt(question))

    def says(self, text: str) -> Segment:
        return policy(*self.words.encode(text, control=True))

    def told(self, text: str) -> Segment:
        return agent(*self.words.encode(f"<feedback:knowledge>{text}</feedback>", control=True))

    def alone(self, name: str, question: str, answer: str, reward: float | None, **changes: Any) -> Trace:
        failed = {"advantage": None, "stop_reason": StopReason.ERROR} if reward is None else {}
        group = name.partition("/")[0]
        made = {"trace_id": name, "group_id": group, "index": int(name[-1]), "reward": reward}
        return trace(self.asks(question), self.says(answer), **(made | failed | changes))

    def helped(self, name: str, question: str, answer: str, reward: float, **changes: Any) -> Trace:
        """Asks for 3@7 after 'So ', is told 582, and goes on."""
        group = name.partition("/")[0]
        made = {
            "trace_id": name,
            "group_id": group,
            "index": int(name[-1]),
            "reward": reward,
            "mode": Mode.ASSISTED,
            "consults": (consult(1, 3, 2),),
        }
        asked, told = self.says("So <consult:knowledge>3@7</consult>"), self.told("582")
        return trace(self.asks(f"agents: {question}"), asked, told, self.says(answer), **(made | changes))

    def keep(self, *traces: Trace) -> "Run":
        for step in sorted({one.step for one in traces}):
            self.store.seal(step, [one for one in traces if one.step == step])
        return self


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A solo rollout and an assisted one that were rewarded, a solo one that was not, a failed one."""
    made = Run(tmp_path / "run")
    return made.keep(
        made.alone("g0/0", "3@7+1=?", "583<eos>", 1.0),
        made.alone("g0/1", "3@7+1=?", "584<eos>", 0.0),
        made.helped("g0/2", "3@7+1=?", "582+1=583<eos>", 0.5),
        made.alone("g0/3", "3@7+1=?", "5", None),
    )


def export(
    folder: Path, format: str, note: Callable[..., None] = lambda *_: None, **options: Any
) -> Exported:
    return export_traces(folder, ExportOptions(format=format, **options), note)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def chat(answer: str, question: str = "3@7+1=?") -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def conversations(file: Path) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in row["messages"]] for row in rows(file)]


# -- raw -----------------------------------------------------------------------------------------------


def test_raw_traces_are_what_they_were(run: Run):
    done = export(run.path, "jsonl")
    assert done == Exported(run.path / "exports" / "jsonl.jsonl", 4, {})
    lines = done.path.read_bytes().splitlines()
    assert [Trace.from_json(line) for line in lines] == list(run.store.read())
    loaded = load_dataset("json", data_files=str(done.path), split="train")
    assert loaded["trace_id"] == ["g0/0", "g0/1", "g0/2", "g0/3"]
    assert loaded["reward"] == [1.0, 0.0, 0.5, None]
    assert loaded[2]["segments"][2]["role"] == "agent"


def test_only_what_the_filter_asks_for(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "_PAGE", 1)
    done = export(run.path, "jsonl", where=Filter(failed=False, mode="solo"))
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0", "g0/1"]
    assert done.left_out == {"not what the filter asks for": 2}


def test_a_step_in_flight_is_exported_too(run: Run, tmp_path: Path):
    run.store.append(run.alone("g1/0", "1+1=?", "2<eos>", 1.0, step=1))
    done = export(run.path, "jsonl", out=tmp_path / "raw.jsonl")
    assert [row["trace_id"] for row in rows(done.path)][-1] == "g1/0"


def test_an_evaluation_is_exported_with_its_runs_tokenizer(run: Run, tmp_path: Path):
    folder = run.path / "evaluations" / "after"
    TraceStore(folder).seal(0, [run.alone("g0/0", "1+1=?", "2<eos>", 1.0)])
    done = export(folder, "sft")
    assert conversations(done.path) == [[("user", "1+1=?"), ("assistant", "2")]]
    assert run_of(folder).path == run.path


# -- chat data -----------------------------------------------------------------------------------------


def test_a_demonstration_is_the_assistants_text_and_asks_what_solo_rollouts_are_asked(tmp_path: Path):
    made = Run(tmp_path / "run")
    shown = segment(Role.AGENT, "expert", made.words.encode("583<eos>", control=True))
    names = {"trace_id": "g0/1", "group_id": "g0", "index": 1, "mode": Mode.EXPERT}
    made.keep(
        made.helped("g0/0", "3@7+1=?", "582+1=583<eos>", 1.0), trace(made.asks("3@7+1=?"), shown, **names)
    )
    for agents in ("cut", "inline"):
        done = export(made.path, "sft", agents=agents, where=Filter(mode="expert"))
        assert conversations(done.path) == [[("user", "3@7+1=?"), ("assistant", "583")]]
        done.path.unlink()
    done = export(made.path, "sft")
    assert conversations(done.path)[0] == [("user", "3@7+1=?"), ("assistant", "So 582+1=583")]


def test_consults_are_cut_and_the_question_is_that_of_the_solo_rollouts(run: Run):
    done = export(run.path, "sft")
    names = {"task_id": "q", "group_id": "g0", "step": 0}
    assert rows(done.path) == [
        {"messages": chat("583"), "trace_id": "g0/0", **names, "kind": "solo", "reward": 1.0},
        {"messages": chat("So 582+1=583"), "trace_id": "g0/2", **names, "kind": "assisted", "reward": 0.5},
    ]
    assert done.left_out == {"no reward above 0": 2}


def test_a_filter_does_not_hide_the_question_of_the_solo_rollouts(run: Run):
    done = export(run.path, "sft", where=Filter(mode="assisted"))
    assert conversations(done.path) == [[("user", "3@7+1=?"), ("assistant", "So 582+1=583")]]


def test_without_a_solo_rollout_the_question_is_its_own(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(made.helped("g0/0", "3@7+1=?", "583<eos>", 1.0))
    done = export(made.path, "sft")
    assert conversations(done.path) == [[("user", "agents: 3@7+1=?"), ("assistant", "So 583")]]


def test_consults_inline(run: Run):
    done = export(run.path, "sft", agents="inline", where=Filter(mode="assisted"))
    said = "So <consult:knowledge>3@7</consult><feedback:knowledge>582</feedback>582+1=583"
    assert conversations(done.path) == [[("user", "agents: 3@7+1=?"), ("assistant", said)]]


def test_only_the_token_that_ends_the_sequence_is_taken_off(tmp_path: Path):
    """Not a text that looks like it elsewhere, and not from a rollout that was cut short."""
    made = Run(tmp_path / "run")
    made.keep(
        made.alone("g0/0", "?", "a<eos>b<eos>", 1.0),
        made.alone("g1/0", "?", "c<eos>", 1.0, stop_reason=StopReason.LENGTH),
        made.alone("g2/0", "?", "d", 1.0),
    )
    found = conversations(export(made.path, "sft").path)
    assert [messages[-1][1] for messages in found] == ["a<eos>b", "c<eos>", "d"]


def test_what_may_not_be_rewarded_enough(run: Run):
    done = export(run.path, "sft", min_reward=0.5)
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0"]
    assert done.left_out == {"no reward above 0.5": 3}


def test_what_was_said_before_is_left_out_if_asked(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(
        *(
            made.alone(f"g{step}/{i}", "1+1=?", f"{i // 2}<eos>", 1.0, step=step)
            for step in (0, 1)
            for i in range(4)
        )
    )
    assert export(made.path, "sft").rows == 8
    done = export(made.path, "sft", unique=True, force=True)
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0", "g0/2"]
    assert done.left_out == {"said before": 6}


def untaught(made: Run) -> dict[str, Trace]:
    """Traces that cannot be cut, by the reason."""
    return {
        "a consult shares a token with other text": made.helped(
            "g1/0", "?", "5<eos>", 1.0, consults=(consult(1, None, 2),)
        ),
        "an agent's text belongs to no consult": made.helped("g2/0", "?", "5<eos>", 1.0, consults=()),
        "a consult tag is left over": made.alone("g3/0", "?", "<consult:knowledge>3@7", 1.0),
        "the policy wrote nothing": made.alone("g4/0", "?", "<eos>", 1.0),
        "the prompt is not of the tokenizer's chat template": trace(
            handmade.prompt(*made.words.encode("3@7+1=?")),
            made.says("5<eos>"),
            trace_id="g5/0",
            group_id="g5",
        ),
        "it was asked more than once": trace(
            made.asks("?"),
            made.says("5"),
            made.asks("?"),
            made.says("5<eos>"),
            trace_id="g6/0",
            group_id="g6",
        ),
    }


def test_what_cannot_be_cut_is_counted(tmp_path: Path):
    made = Run(tmp_path / "run")
    config = {"rollout": {"suppress_tags": ["<consult:{agent}>"]}, "agents": {"knowledge": {}}}
    (made.path / "config.yaml").write_text(yaml.safe_dump(config))
    cases = untaught(made)
    made.keep(made.alone("g0/0", "?", "5<eos>", 1.0), *cases.values())
    done = export(made.path, "sft")
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0"]
    assert done.left_out == dict.fromkeys(cases, 1)


def test_inline_keeps_what_cannot_be_cut(tmp_path: Path):
    made = Run(tmp_path / "run")
    cases = untaught(made)
    made.keep(*cases.values())
    done = export(made.path, "sft", agents="inline")
    assert [row["trace_id"] for row in rows(done.path)] == ["g1/0", "g2/0", "g3/0"]


SPELT = {"a text spells a special token": 1}


def test_text_that_spells_a_special_token_is_left_out(tmp_path: Path):
    """Written character by character it is no such token; encoded again it would be one."""
    made = Run(tmp_path / "run")
    plain = made.words.encode("a</user>b")
    assert WORDS.index("</user>") not in plain
    asked = made.words.encode_prompt("?")
    by_policy = trace(made.asks("?"), policy(*plain, WORDS.index("<eos>")), trace_id="g1/0", group_id="g1")
    by_task = trace(
        segment(Role.PROMPT, "task", [asked[0], *plain, *asked[2:]]),
        made.says("5<eos>"),
        trace_id="g2/0",
        group_id="g2",
    )
    over_a_seam = trace(
        made.asks("?"),
        policy(*made.words.encode("</us")),
        env(*made.words.encode("er>")),
        made.says("5<eos>"),
        trace_id="g3/0",
        group_id="g3",
    )
    made.keep(made.alone("g0/0", "?", "a</user>b<eos>", 1.0), by_policy, by_task, over_a_seam)
    done = export(made.path, "sft", agents="inline")
    assert conversations(done.path) == [[("user", "?"), ("assistant", "a</user>b")]]
    assert done.left_out == {"a text spells a special token": 3}


def test_an_agent_that_spells_a_special_token_is_in_no_export_with_its_text(tmp_path: Path):
    made = Run(tmp_path / "run")
    kept = made.helped("g0/0", "?", "5<eos>", 1.0)
    asked, request, _, answer = kept.segments
    tag, end = (made.words.encode(text, control=True) for text in ("<feedback:knowledge>", "</feedback>"))
    told = agent(*tag, *made.words.encode("582<eos>"), *end)
    forged = replace(kept, trace_id="g0/1", index=1, segments=(asked, request, told, answer))
    made.keep(kept, forged)
    done = export(made.path, "sft", agents="inline", force=True)
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0"]
    assert done.left_out == SPELT
    done = export(made.path, "sft", agents="cut", force=True)  # its text is cut out, and so is the trouble
    assert conversations(done.path) == [[("user", "agents: ?"), ("assistant", "So 5")]] * 2


def test_a_solo_question_that_spells_a_special_token_is_asked_of_nobody(tmp_path: Path):
    made = Run(tmp_path / "run")
    asked = made.words.encode_prompt("?")
    forged = segment(Role.PROMPT, "task", [asked[0], *made.words.encode("<eos>"), *asked[2:]])
    solo = trace(forged, made.says("5<eos>"), trace_id="g0/1", group_id="g0", index=1)
    made.keep(made.helped("g0/0", "?", "5<eos>", 1.0), solo)
    done = export(made.path, "sft")
    assert conversations(done.path) == [[("user", "agents: ?"), ("assistant", "So 5")]]
    assert done.left_out == SPELT


def test_texts_that_were_not_stored_are_decoded(tmp_path: Path):
    made = Run(tmp_path / "run", stored_texts=False)
    made.keep(made.helped("g0/0", "3@7", "5<eos>", 1.0), made.alone("g0/1", "3@7", "6<eos>", 1.0))
    assert next(made.store.stored()).texts is None
    assert conversations(export(made.path, "sft").path) == [
        [("user", "3@7"), ("assistant", "So 5")],
        [("user", "3@7"), ("assistant", "6")],
    ]


@pytest.mark.parametrize("stored_texts", [True, False])
def test_the_space_at_a_seam_is_exported(tmp_path: Path, stored_texts: bool):
    """By a tokenizer that leaves out the first space of what it decodes, as sentencepiece does."""
    made = Run(tmp_path / "run", template=None, stored_texts=stored_texts, strip=True)
    asked, told = made.says(" so<consult:knowledge>3@7</consult>"), made.told("582")
    answered = {"mode": Mode.ASSISTED, "consults": (consult(1, 3, 2),)}
    made.keep(trace(made.asks("1?"), asked, told, made.says(" the answer<eos>"), **answered))
    cut = export(made.path, "sft")
    assert conversations(cut.path) == [[("user", "1?"), ("assistant", " so the answer")]]
    inline = export(made.path, "sft", agents="inline", force=True)
    said = " so<consult:knowledge>3@7</consult><feedback:knowledge>582</feedback> the answer"
    assert conversations(inline.path) == [[("user", "1?"), ("assistant", said)]]


def test_a_trained_policys_tokenizer_does_as_well(run: Run):
    expected = rows(export(run.path, "sft").path)
    (run.path / "tokenizer").rename(run.path / "model")
    assert rows(export(run.path, "sft", force=True).path) == expected


def test_without_a_tokenizer_a_text_that_was_not_stored_is_refused_by_name(tmp_path: Path):
    made = Run(tmp_path / "run", stored_texts=False)
    made.keep(made.alone("g0/0", "?", "5<eos>", 1.0))
    shutil.rmtree(made.path / "tokenizer")
    for format in ("sft", "preference", "dataset"):
        with pytest.raises(RunError, match="text of trace 'g0/0': got token ids, and no tokenizer"):
            export(made.path, format)
    assert export(made.path, "jsonl").rows == 1


def test_without_a_chat_template_the_prompt_is_the_question(tmp_path: Path):
    made = Run(tmp_path / "run", template=None)
    made.keep(made.alone("g0/0", "Q: 1+1=?\n", "2<eos>", 1.0))
    assert conversations(export(made.path, "sft").path) == [[("user", "Q: 1+1=?\n"), ("assistant", "2")]]


def test_where_the_tokenizer_does_not_tell_the_end_it_is_an_option(tmp_path: Path):
    made = Run(tmp_path / "run", template=None)
    made.keep(made.alone("g0/0", "1+1=?", "2<eos>", 1.0))
    (made.path / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(
        RunError, match=r"end of sequence of trace 'g0/0': got no tokenizer_config.* allowed --eos"
    ):
        export(made.path, "sft")
    done = export(made.path, "sft", eos="<eos>")
    assert conversations(done.path) == [[("user", "1+1=?"), ("assistant", "2")]]


def test_without_a_tokenizer_no_chat_template_is_taken_for_the_users_words(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(made.alone("g0/0", "1+1=?", "2<eos>", 1.0), made.alone("g0/1", "1+1=?", "3<eos>", 0.0))
    elsewhere = (made.path / "tokenizer").rename(tmp_path / "elsewhere")
    for format in ("sft", "preference"):
        with pytest.raises(RunError, match=r"chat template: got no tokenizer .* allowed --tokenizer DIR"):
            export(made.path, format, eos="<eos>")
    assert export(made.path, "dataset").rows == 2
    done = export(made.path, "sft", tokenizer=elsewhere)
    assert conversations(done.path) == [[("user", "1+1=?"), ("assistant", "2")]]
    with pytest.raises(LoadError, match=r"tokenizer in .*nowhere: got"):
        export(made.path, "sft", tokenizer=tmp_path / "nowhere", force=True)


def test_the_end_token_may_be_described_at_length(run: Run):
    file = run.path / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"eos_token": {"__type": "AddedToken", "content": "<eos>"}}
    file.write_text(json.dumps(settings))
    assert conversations(export(run.path, "sft").path)[0][-1] == ("assistant", "583")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("tokenizer.json", "tokenizer in .*tokenizer: got"),
        ("chat_template.jinja", "chat template in .*: got"),
    ],
)
def test_a_broken_tokenizer_is_refused_by_name(tmp_path: Path, file: str, says: str):
    made = Run(tmp_path / "run", stored_texts=False)
    made.keep(made.alone("g0/0", "?", "5<eos>", 1.0))
    (made.path / "tokenizer" / file).write_text("{% if")
    with pytest.raises(LoadError, match=says):
        export(made.path, "sft")


# -- preference ----------------------------------------------------------------------------------------


def test_the_best_against_the_worst(run: Run):
    done = export(run.path, "preference")
    assert rows(done.path) == [
        {
            "prompt": chat("")[:1],
            "chosen": chat("583")[1:],
            "rejected": chat("584")[1:],
            **{"score_chosen": 1.0, "score_rejected": 0.0, "chosen_id": "g0/0", "rejected_id": "g0/1"},
            **{"task_id": "q", "group_id": "g0", "step": 0},
        }
    ]
    assert done.left_out == {"no reward": 1, "in no pair of its group": 1}


def ids(done: Exported) -> list[tuple[str, str]]:
    return [(row["chosen_id"], row["rejected_id"]) for row in rows(done.path)]


def test_every_pair_with_a_margin(run: Run, tmp_path: Path):
    every = export(run.path, "preference", pairs=None, out=tmp_path / "a")
    assert ids(every) == [("g0/0", "g0/1"), ("g0/0", "g0/2"), ("g0/2", "g0/1")]
    assert ids(export(run.path, "preference", pairs=2, out=tmp_path / "b")) == ids(every)[:2]
    assert ids(export(run.path, "preference", pairs=None, margin=0.6, out=tmp_path / "c")) == ids(every)[:1]


def test_what_was_asked_differently_is_no_pair(run: Run, tmp_path: Path):
    """With consults inline, the assisted rollout has a prompt of its own."""
    done = export(run.path, "preference", pairs=None, agents="inline", out=tmp_path / "a")
    assert ids(done) == [("g0/0", "g0/1")]


def test_few_pairs_show_many_answers(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(*(made.alone(f"g0/{i}", "?", f"{i}<eos>", float(i < 3)) for i in range(6)))
    done = export(made.path, "preference", pairs=3)
    assert ids(done) == [("g0/0", "g0/3"), ("g0/1", "g0/4"), ("g0/2", "g0/5")]
    assert export(made.path, "preference", pairs=None, force=True).rows == 9


def test_the_same_words_are_no_pair(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(
        made.alone("g0/0", "?", "5<eos>", 1.0),
        made.alone("g0/1", "?", "5", 0.0, stop_reason=StopReason.LENGTH),
        made.alone("g0/2", "?", "6<eos>", 0.0),
        made.alone("g1/0", "?", "5<eos>", 1.0),
        made.alone("g1/1", "?", "6<eos>", 0.0),
    )
    assert ids(export(made.path, "preference", pairs=None)) == [("g0/0", "g0/2"), ("g1/0", "g1/1")]
    assert ids(export(made.path, "preference", unique=True, force=True)) == [("g0/0", "g0/2")]


def test_what_cannot_be_cut_is_in_no_pair(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(
        made.alone("g0/0", "?", "5<eos>", 1.0),
        made.alone("g0/1", "?", "6<eos>", 0.0),
        made.helped("g0/2", "?", "7<eos>", 2.0, consults=()),
    )
    done = export(made.path, "preference")
    assert ids(done) == [("g0/0", "g0/1")]
    assert done.left_out == {"an agent's text belongs to no consult": 1}


def test_a_margin_is_met_in_spite_of_rounding(tmp_path: Path):
    made = Run(tmp_path / "run")
    made.keep(made.alone("g0/0", "?", "5<eos>", 0.3), made.alone("g0/1", "?", "6<eos>", 0.1))
    assert export(made.path, "preference", margin=0.2).rows == 1


# -- what TRL makes of it ------------------------------------------------------------------------------


def sft(file: Path, folder: Path) -> Any:
    """The data set as SFTTrainer prepared it."""
    trainer = SFTTrainer(
        model=tiny.model(vocabulary=len(WORDS)),
        args=SFTConfig(output_dir=str(folder), assistant_only_loss=True, report_to="none", use_cpu=True),
        train_dataset=load_dataset("json", data_files=str(file), split="train"),
        processing_class=tokenizer(),
    )
    return trainer.train_dataset


def learned(row: dict[str, Any]) -> list[int]:
    """Tokens with a label: the assistant's."""
    return [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == token]


def test_sft_learns_the_very_tokens_that_were_sampled(run: Run, tmp_path: Path):
    solo, _, assisted, _ = run.store.read()
    inline = sft(export(run.path, "sft", agents="inline").path, tmp_path / "a")
    assert [row["input_ids"] for row in inline] == [solo.token_ids.tolist(), assisted.token_ids.tolist()]
    for row, one in zip(inline, (solo, assisted), strict=True):
        assert learned(row) == one.token_ids[len(one.segments[0]) :].tolist()

    cut = sft(export(run.path, "sft", force=True).path, tmp_path / "c")
    assert learned(cut[1]) == run.words.encode("So 582+1=583<eos>", control=True)
    assert cut[1]["input_ids"][: len(solo.segments[0])] == solo.segments[0].token_ids.tolist()


def test_dpo_takes_the_pairs(run: Run, tmp_path: Path):
    file = export(run.path, "preference", pairs=None).path
    trainer = DPOTrainer(
        model=tiny.model(vocabulary=len(WORDS)),
        ref_model=tiny.model(vocabulary=len(WORDS)),
        args=DPOConfig(output_dir=str(tmp_path / "dpo"), report_to="none", use_cpu=True, max_steps=1),
        train_dataset=load_dataset("json", data_files=str(file), split="train"),
        processing_class=tokenizer(),
    )
    best, worst, *_ = run.store.read()
    row = trainer.train_dataset[0]
    assert row["prompt_ids"] == best.segments[0].token_ids.tolist()
    assert row["chosen_ids"] == best.segments[1].token_ids.tolist()
    assert row["rejected_ids"] == worst.segments[1].token_ids.tolist()
    assert trainer.train().training_loss > 0


# -- a data set ----------------------------------------------------------------------------------------


def test_a_dataset_is_loaded_with_every_column(run: Run):
    done = export(run.path, "dataset")
    assert done == Exported(run.path / "exports" / "dataset", 4, {})
    loaded = load_dataset(str(done.path), split="train")
    assert loaded.column_names == SCHEMA.names
    assert loaded["texts"][0] == ["<user>3@7+1=?</user><assistant>", "583<eos>"]
    # Written over, or of the same name elsewhere: `datasets` does not show what it cached before.
    for folder in (None, run.path / "elsewhere" / "dataset"):
        again = export(run.path, "dataset", out=folder, where=Filter(reward=(1.0, None)), force=True)
        assert load_dataset(str(again.path), split="train")["trace_id"] == ["g0/0"]
    original = [segment.token_ids.tolist() for segment in next(run.store.read()).segments]
    assert [segment["token_ids"] for segment in loaded[0]["segments"]] == original


def test_a_large_dataset_is_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset, "_SHARD_BYTES", 1)
    made = Run(tmp_path / "run")
    made.keep(*(made.alone(f"g{step}/0", "?", "5<eos>", 1.0, step=step) for step in range(4)))
    done = export(made.path, "dataset", where=Filter(step=(1, 3)))
    files = sorted(path.name for path in (done.path / "data").iterdir())
    assert files == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert load_dataset(str(done.path), split="train")["step"] == [1, 2, 3]


def test_the_card_tells_what_there_is(run: Run):
    manifest = {
        "model": "/home/somebody/models/small",
        "python": "3.11.7",
        "packages": {"trl": "1.16.0"},
        "files": {"graph": {"file": "/home/somebody/graphs/consult.py", "fingerprint": "b9bb"}},
    }
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    text = (export(run.path, "dataset").path / "README.md").read_text(encoding="utf-8")
    front = DatasetCard(text).data.to_dict()
    assert front["size_categories"] == ["n<1K"]
    assert "license" not in front and text.startswith("---\n# license: choose one")
    assert "| traces | 4 |\n" in text and "| tokens: agent | 5 |\n" in text
    assert "| trl | 1.16.0 |\n" in text and "| graph | consult.py | b9bb |\n" in text
    assert "Policy at the start: small\n" in text and "somebody" not in text
    assert "| `forbidden_ids` | list of int32 | " in text and "| `consults` | list of struct | " in text


def test_every_column_is_explained():
    assert list(COLUMNS) == SCHEMA.names


def test_a_card_cannot_be_steered():
    text = card("x|<script>\n# y\u202e", {"traces": 1}, {"model": "<b>&amp;|"})
    assert "\n# x\\|&lt;script> # y⟨U+202E⟩\n" in text
    assert "Policy at the start: &lt;b>&amp;amp;\\|\n" in text


@pytest.mark.parametrize(("count", "size"), [(0, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M")])
def test_sizes(count: int, size: str):
    assert f"- {size}\n" in card("x", {"traces": count}, {})


# -- whole or not at all -------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("format", ["jsonl", "sft", "preference", "dataset"])
def test_what_is_there_is_written_over_only_by_force(run: Run, format: str):
    first = export(run.path, format)
    before = contents(first.path)
    with pytest.raises(RunError, match=r"--out: got .*, which is there already, allowed .* --force"):
        export(run.path, format)
    assert export(run.path, format, force=True) == first
    assert contents(first.path).keys() == before.keys()
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


def test_force_does_not_remove_what_no_export_made(run: Run, tmp_path: Path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    for format in ("dataset", "sft"):
        with pytest.raises(RunError, match=r"--force: got .*home, allowed a file, or for --format dataset"):
            export(run.path, format, out=folder, force=True)
    with pytest.raises(RunError, match=r"--force: got .*README\.md"):
        export(run.path, "dataset", out=folder / "README.md", force=True)
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize("format", ["jsonl", "dataset"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_what_was_there(
    run: Run, format: str, there: bool, monkeypatch: pytest.MonkeyPatch
):
    path = run.path / "exports" / (format if format == "dataset" else f"{format}.jsonl")
    before = contents(export(run.path, format).path) if there else {}

    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"export to .*: got .*No space left.* Nothing was written there"):
        export(run.path, format, force=True)
    assert list(path.parent.iterdir()) == ([path] if there else [])
    assert (contents(path) if there else {}) == before


def test_nothing_to_write_is_an_error_that_says_why(run: Run, tmp_path: Path):
    says = "got no conversations to write, allowed at least one. .*: 4 left out: no reward above 2"
    with pytest.raises(RunError, match=says):
        export(run.path, "sft", min_reward=2.0, out=tmp_path / "new" / "x.jsonl")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(RunError, match=r"got no traces to write.*: 4 left out: not what the filter asks for"):
        export(run.path, "dataset", where=Filter(task="nowhere"))


def test_unknown_names_are_refused(run: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match="--format: got 'csv', allowed jsonl, sft, preference, dataset"):
        export(run.path, "csv")
    with pytest.raises(ConfigError, match="--agents: got 'none', allowed cut, inline"):
        export(run.path, "sft", agents="none")
    with pytest.raises(RunError, match=r"traces: got .*, allowed a run"):
        export(tmp_path / "nowhere", "sft")


def test_what_came_of_it_is_said(run: Run):
    console = Console(file=io.StringIO(), width=200)
    export_run(run.path, ExportOptions(format="sft"), console)
    said = console.file.getvalue()
    assert re.search(
        r"^2 conversations written to .*sft\.jsonl\n  2 left out: no reward above 0\n", said, re.M
    )


def test_only_one_step_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = Run(tmp_path / "run")
    made.keep(*(made.alone(f"g{step}/0", "?", "5<eos>", 1.0, step=step) for step in range(3)))
    read: list[int | None] = []
    stored: Callable[..., Any] = TraceStore.stored

    def counted(store: TraceStore, step: int | None = None) -> Any:
        read.append(step)
        return stored(store, step)

    seen: list[Sequence[int | None]] = []
    monkeypatch.setattr(TraceStore, "stored", counted)
    export(made.path, "sft", note=lambda done, total, text: seen.append((done, total, len(read))))
    assert seen == [(0, 3, 1), (1, 3, 2), (2, 3, 3), (3, 3, 3)]


def test_rows_are_json_that_any_reader_takes(tmp_path: Path):
    """A line end, a quote and what looks like mark-up in a text."""
    made = Run(tmp_path / "run")
    made.keep(made.alone("g0/0", 'a\n"?', "</script>\n\\<eos>", 1.0))
    (line,) = export(made.path, "sft").path.read_bytes().splitlines()
    assert [m["content"] for m in orjson.loads(line)["messages"]] == ['a\n"?', "</script>\n\\"]
