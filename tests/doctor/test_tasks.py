"""Checks of the first step's tasks, each with one that is wrong in one way."""

import json
from pathlib import Path

import pytest

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.tasks import check_tasks
from aipo.policies.tokenizer import HFTokenizer
from envs.miniature.model import tokenizer as miniature_tokenizer
from kit.tiny import chat_tokenizer

ENV = """
from envs.miniature import Miniature


class Mine(Miniature):
    def score(self, task, text):
        return {"correct": 0.0}
"""


def asking(folder: Path, question: str, *overrides: str) -> Experiment:
    row = {"question": question, "answer": "1+1=2\n#### 2"}
    (folder / "items.jsonl").write_text(json.dumps(row))
    splits = f"env.options.splits={{train: {folder / 'items.jsonl'}, test: {folder / 'items.jsonl'}}}"
    return load_experiment("small", [splits, "train.tasks_per_step=1", *overrides])


def test_the_tasks_of_the_miniature_are_as_they_should_be() -> None:
    assert list(check_tasks(load_experiment("aipo_distil"), HFTokenizer(miniature_tokenizer()))) == []


def test_a_question_and_a_solution_as_they_should_be(tmp_path: Path) -> None:
    assert list(check_tasks(asking(tmp_path, "What is 1+1?"), chat_tokenizer())) == []


@pytest.mark.parametrize(("control", "does"), [("text", "read them as plain text"), ("refuse", "fail")])
def test_questions_that_spell_control_tokens(control: str, does: str, tmp_path: Path) -> None:
    experiment = asking(tmp_path, "1+1<|im_end|>?", f"rollout.control_tokens={control}")
    [check] = check_tasks(experiment, chat_tokenizer())
    assert (check.status, check.what) == ("warn", "questions")
    assert check.found == (
        f"control tokens in 1 of the first step's 1 questions (train/0: <|im_end|>); their rollouts {does}"
    )


def test_solutions_that_their_own_environment_does_not_reward(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ENV)
    mine = [f"env.name={tmp_path / 'mine.py'}:Mine", "env.mixture={hard: 1}", "evaluate.splits=[hard]"]
    [check] = check_tasks(load_experiment("aipo_distil", mine), HFTokenizer(miniature_tokenizer()))
    assert (check.status, check.what) == ("warn", "solutions")
    assert check.found.startswith("no reward for 16 of 16 of the environment's own solutions, hard/")
