"""Rows for TRL: which pairs are made, and what SFTTrainer and DPOTrainer make of the rows."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from aipo.trace import StopReason
from kit import tiny
from kit.exports import WORDS, Run, rows, tokenizer


def test_the_best_against_the_worst(run: Run):
    done = run.export("preference")
    assert rows(done.path) == [
        {
            "prompt": [{"role": "user", "content": "3@7+1=?"}],
            "chosen": [{"role": "assistant", "content": "583"}],
            "rejected": [{"role": "assistant", "content": "584"}],
            **{"score_chosen": 1.0, "score_rejected": 0.0, "chosen_id": "g0/0", "rejected_id": "g0/1"},
            **{"task_id": "q", "group_id": "g0", "step": 0},
        }
    ]
    assert done.left_out == {"no reward": 1, "in no pair of its group": 1}


EVERY = [("g0/0", "g0/1"), ("g0/0", "g0/2"), ("g0/2", "g0/1")]


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, EVERY),
        ({"pairs": 2}, EVERY[:2]),
        ({"margin": 0.6}, EVERY[:1]),
        ({"agents": "inline"}, EVERY[:1]),  # the assisted rollout has a prompt of its own: another question
    ],
)
def test_pairs_as_the_options_ask(run: Run, options: dict[str, Any], pairs: list[tuple[str, str]]):
    assert run.pairs(**({"pairs": None} | options)) == pairs


def test_few_pairs_show_many_answers(empty: Run):
    empty.keep(*(empty.solo(f"g0/{i}", "?", f"{i}<eos>", float(i < 3)) for i in range(6)))
    assert empty.pairs(pairs=3) == [("g0/0", "g0/3"), ("g0/1", "g0/4"), ("g0/2", "g0/5")]
    assert empty.export("preference", pairs=None).rows == 9


def test_the_same_words_are_no_pair(empty: Run):
    empty.keep(
        empty.solo("g0/0", "?", "5<eos>"),
        empty.solo("g0/1", "?", "5", 0.0, stop_reason=StopReason.LENGTH),
        empty.solo("g0/2", "?", "6<eos>", 0.0),
        empty.solo("g1/0", "?", "5<eos>"),
        empty.solo("g1/1", "?", "6<eos>", 0.0),
    )
    assert empty.pairs(pairs=None) == [("g0/0", "g0/2"), ("g1/0", "g1/1")]
    assert empty.pairs(unique=True) == [("g0/0", "g0/2")]


def test_the_next_pair_stands_in_for_one_that_was_there_before(empty: Run):
    names = ("g0/0", "g0/1", "g1/0", "g1/1", "g1/2")
    empty.keep(*(empty.solo(name, "?", f"{name[-1]}<eos>", float(name[-1] != "1")) for name in names))
    done = empty.export("preference", unique=True, pairs=1)
    assert [row["chosen_id"] for row in rows(done.path)] == ["g0/0", "g1/2"]
    assert done.left_out == {"repeats an earlier row": 1, "in no pair of its group": 1}


def test_what_cannot_be_cut_is_in_no_pair(empty: Run):
    empty.keep(
        empty.solo("g0/0", "?", "5<eos>"),
        empty.solo("g0/1", "?", "6<eos>", 0.0),
        empty.assisted("g0/2", "?", "7<eos>", 2.0, consults=()),
    )
    assert empty.pairs() == [("g0/0", "g0/1")]
    assert empty.export("preference").left_out == {"an agent's text belongs to no consult": 1}


def test_a_margin_is_met_in_spite_of_rounding(empty: Run):
    empty.keep(empty.solo("g0/0", "?", "5<eos>", 0.3), empty.solo("g0/1", "?", "6<eos>", 0.1))
    assert empty.export("preference", margin=0.2).rows == 1


def test_rows_are_json_that_any_reader_takes(empty: Run):
    """A line end, a quote and what looks like mark-up in a text."""
    empty.keep(empty.solo("g0/0", 'a\n"?', "</script>\n\\<eos>"))
    (line,) = empty.export("sft").path.read_bytes().splitlines()
    assert [m["content"] for m in orjson.loads(line)["messages"]] == ['a\n"?', "</script>\n\\"]


def trainer(kind: Any, config: Any, file: Path, **models: Any) -> Any:
    return kind(
        model=tiny.model(vocabulary=len(WORDS)),
        args=config,
        train_dataset=load_dataset("json", data_files=str(file), split="train"),
        processing_class=tokenizer(),
        **models,
    )


def test_sft_learns_the_very_tokens_that_were_sampled(run: Run, tmp_path: Path):
    def prepared(agents: str) -> Any:
        rest = {"assistant_only_loss": True, "report_to": "none", "use_cpu": True}
        config = SFTConfig(output_dir=str(tmp_path / agents), **rest)
        return trainer(SFTTrainer, config, run.export("sft", agents=agents).path).train_dataset

    def learned(row: dict[str, Any]) -> list[int]:
        return [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == token]

    solo, _, assisted, _ = run.store.read()
    for row, one in zip(prepared("inline"), (solo, assisted), strict=True):
        assert row["input_ids"] == one.token_ids.tolist()
        assert learned(row) == one.token_ids[len(one.segments[0]) :].tolist()
    _, cut = prepared("cut")
    assert learned(cut) == run.words.encode("So 582+1=583<eos>", control=True)
    assert cut["input_ids"][: len(solo.segments[0])] == solo.segments[0].token_ids.tolist()


def test_dpo_takes_the_pairs(run: Run, tmp_path: Path):
    config = DPOConfig(output_dir=str(tmp_path / "dpo"), report_to="none", use_cpu=True, max_steps=1)
    file = run.export("preference", pairs=None).path
    training = trainer(DPOTrainer, config, file, ref_model=tiny.model(vocabulary=len(WORDS)))
    best, worst, *_ = run.store.read()
    row = training.train_dataset[0]
    assert row["prompt_ids"] == best.segments[0].token_ids.tolist()
    assert row["chosen_ids"] == best.segments[1].token_ids.tolist()
    assert row["rejected_ids"] == worst.segments[1].token_ids.tolist()
    assert training.train().training_loss > 0
