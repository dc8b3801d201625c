"""Rehearsal: the policy is held to its own answers of before training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from aipo.config.build import Experiment
from aipo.errors import ConfigError
from aipo.method.batch import TokenTotals
from aipo.method.rows import Code
from aipo.method.step_rows import StepRows
from aipo.policies.logprobs import score
from aipo.rollout.spec import derive_seed
from aipo.run import RunFolder
from aipo.train.rehearsal import NOTHING, Answer, Rehearsal, read_answers, read_prompts
from kit.recorded import replayed_losses
from kit.tiny_run import config, train

EMPTY = StepRows(rows=(), totals=TokenTotals(0, 0, 0), active_share=1.0)
PROMPTS = ["1+1=?", "2+3=?", "9+8=?"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*PROMPTS, ""]))
    return file


def rehearsing(folder: Path, prompts: Path, *more: str) -> Experiment:
    return config(folder, f"rehearsal={{prompts: {prompts}, rows: 2, max_tokens: 5}}", *more)


def test_every_answer_has_its_turn_before_one_comes_again() -> None:
    answers = [Answer(f"p{i}", f"a{i}", (1, 2), (10 + i, 0), (-1.0, -2.0)) for i in range(3)]
    rehearsal = Rehearsal(answers, count=2, weight=0.5, seed=1)
    steps = [rehearsal.beside(EMPTY, step) for step in range(3)]
    firsts = [int(row.token_ids_T[2]) for step in steps for row in step.rows]
    assert sorted(firsts[:3]) == sorted(firsts[3:]) == [10, 11, 12]
    row = steps[0].rows[0]
    assert row.token_ids_T.tolist() == [1, 2, firsts[0], 0]
    assert row.codes_T.tolist() == [Code.PROMPT, Code.PROMPT, Code.REHEARSED, Code.REHEARSED]
    assert row.behaviour_logprobs_T.tolist()[2:] == [-1.0, -2.0]
    assert (row.advantage, row.policy_tokens, row.agent_tokens, row.kind) == (0.5, 2, 0, "rehearsed")
    assert steps[0].metrics == {"rows/rehearsed": 2.0}
    assert NOTHING.beside(EMPTY, 0) is EMPTY


def test_a_run_answers_first_and_learns_its_answers(tmp_path: Path, prompts: Path) -> None:
    first = RunFolder(train(rehearsing(tmp_path / "a", prompts)))
    answers = read_answers(first.rehearsal)
    assert [one.prompt for one in answers] == PROMPTS
    assert all(1 <= len(one.token_ids) <= 5 for one in answers)
    metrics = first.read_metrics()
    assert [line["rows/rehearsed"] for line in metrics if "rows/rehearsed" in line] == [2.0, 2.0, 2.0]
    assert sum(line.get("tokens/rehearsed", 0) for line in metrics) == sum(
        len(answers[i].token_ids) for i in order()
    )

    assert metrics[0]["kl/rehearsed"] == pytest.approx(0, abs=1e-6)  # nothing has changed yet
    assert metrics[-1]["kl/rehearsed"] > 1e-4

    # As it was trained, it is computed again.
    losses = replayed_losses(
        first.path, tmp_path / "loss", grid=[], gradients=False, checkpoint="start", steps=(0, 0)
    )
    recorded = {line["step"]: line["loss"] for line in metrics}
    assert losses[0]["loss"] == pytest.approx(recorded[1], abs=1e-6)

    # What begins with its model remembers the same answers, those of the model before both.
    second = RunFolder(train(rehearsing(tmp_path / "b", prompts, f"policy={{model: {first.model}}}")))
    assert second.rehearsal.read_text() == first.rehearsal.read_text()
    # Other prompts are answered anew, by the model that it begins with.
    prompts.write_text("\n".join(PROMPTS[:2]))
    third = RunFolder(train(rehearsing(tmp_path / "c", prompts, f"policy={{model: {first.model}}}")))
    assert [one.prompt for one in read_answers(third.rehearsal)] == PROMPTS[:2]


def order() -> list[int]:
    """Which answers three steps of two rows learn."""
    rehearsal = Rehearsal(
        [Answer(str(i), "", (1,), (i,), (-1.0,)) for i in range(3)], 2, 1.0, derive_seed(0, "rehearsal")
    )
    return [int(row.token_ids_T[1]) for step in range(3) for row in rehearsal.beside(EMPTY, step).rows]


def test_rehearsed_answers_stay_likelier(tmp_path: Path, prompts: Path) -> None:
    """The mean probability of the answers, after training with and without them."""
    with_it = RunFolder(train(rehearsing(tmp_path / "a", prompts)))
    without = RunFolder(train(config(tmp_path / "b")))
    answers = read_answers(with_it.rehearsal)

    def mean_logprob(folder: RunFolder) -> float:
        model = AutoModelForCausalLM.from_pretrained(folder.model, dtype=torch.float32).eval()
        pairs = [(np.array(a.prompt_ids, np.int32), np.array(a.token_ids, np.int32)) for a in answers]
        return float(np.concatenate([score(model, *pair) for pair in pairs]).mean())

    assert mean_logprob(with_it) > mean_logprob(without)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "FileNotFoundError.*a text file with a prompt in each line"), (" \n\n", "got no prompts")],
)
def test_prompts_that_are_none_are_refused_before_anything_is_made(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "prompts.txt"
    if text is not None:
        file.write_text(text)
    experiment = rehearsing(tmp_path / "a", file)
    with pytest.raises(ConfigError, match=message):
        train(experiment)
    assert not experiment.out.exists()


def test_prompts_of_a_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def asked():\n    return ['a', 'b']\ndef number():\n    return 3\n")
    assert read_prompts(f"{file}:asked") == ["a", "b"]
    with pytest.raises(ConfigError, match="got no prompts, allowed a list"):
        read_prompts(f"{file}:number")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"', "JSONDecodeError"),
        ('{"prompt": "a", "answer": "b", "prompt_ids": [1]}', "KeyError: 'token_ids'"),
        (
            '{"prompt": "a", "answer": "b", "prompt_ids": [1], "token_ids": [2], "logprobs": []}',
            "without tokens or their log-probs",
        ),
        ("", "with none"),
    ],
)
def test_a_file_of_answers_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "rehearsal.jsonl"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_answers(file)


def test_answers_of_another_tokenizer_are_refused(tmp_path: Path, prompts: Path) -> None:
    first = RunFolder(train(rehearsing(tmp_path / "a", prompts)))
    lines = [json.loads(line) for line in first.rehearsal.read_text().splitlines()]
    lines[0]["prompt_ids"][0] += 1
    first.rehearsal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="in other token ids than the policy's tokenizer gives it"):
        train(rehearsing(tmp_path / "b", prompts, f"policy={{model: {first.model}}}"))
