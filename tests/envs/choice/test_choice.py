"""Multiple choice: which option an answer names, and options in an order that a seed draws."""

import asyncio
import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import ConfigError, TaskError
from aipo.rollout import Task
from envs.choice import Choice
from envs.choice.options import LETTERS, choices
from envs.choice.verdict import chosen
from envs.file import File

OPTIONS = ("12 cm", "3 mW", "3 MW", r"$\frac{1}{2}$", "none of them")

NAMES = {  # what an answer says -> the letter that it names, by the rule in envs/choice/verdict.py
    "one letter": {
        **dict.fromkeys(
            ("C", "c", "(C)", "( C )", "[C]", "C.", "C)", r"\text{C}", r"\textbf{(C)}", "**C**", "$C$"), "C"
        ),
        **dict.fromkeys(("option C", "Option (C)", "the answer is C", "Answer: C", "choice C", r"\mathrm{C}"), "C"),
        "\uff23": "C",
    },
    "the same letter twice": {"C, C": "C", "C and (C)": "C"},
    "a letter with its text": {"B) 3 mW": "B", "(B) 3 mW": "B", "B. 3 mW": "B", "B: 3 mW": "B", "D) 1/2, as shown": "D"},
    "a letter and the text of another": {"C) 3 mW": None, "(B) 3 MW": None, "A: none of them": None},
    "several letters": {"A and C": None, "A, C": None, "A or C": None, "(A), (C)": None, "A/C": None, "B C": None},
    "a letter that no option has": {"F": None, "Z": None, "(J)": None},
    "the text of an option": {"3 MW": "C", "3 mW": "B", "12cm": "A", r"\frac{1}{2}": "D", "None of them": None},
    "neither": {"": None, "3": None, "both": None, "1": None, "I do not know": None, "A cat": None, "C" * 3: None},
}  # fmt: skip
ROWS = [(answer, letter) for kind in NAMES.values() for answer, letter in kind.items()]


@pytest.mark.parametrize(("answer", "letter"), ROWS, ids=[answer or "empty" for answer, _ in ROWS])
def test_which_option_an_answer_names(answer: str, letter: str | None) -> None:
    named, why = chosen(answer, OPTIONS)
    assert named == letter and why


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "there is no answer"),
        ("A, C", "several letters: A, C"),
        ("C) 3 mW", "the letter C with the text of B"),
        ("both", "neither a letter nor the text of one option"),
        ("3 MW", "the text of an option"),
        ("C" * 2**20, "the answer is too long for an option"),
    ],
)
def test_every_verdict_has_a_reason(answer: str | None, why: str) -> None:
    assert chosen(answer, OPTIONS).why == why


def test_a_question_with_its_options_in_the_text_knows_letters_only() -> None:
    assert chosen("B) 3 mW", None) == ("B", "a letter with a text")
    assert chosen("3 mW", None).letter is None
    assert chosen("J", None).letter == "J"


@given(st.sampled_from(LETTERS[:5]), st.text())
def test_no_text_behind_a_letter_makes_it_another_letter(letter: str, text: str) -> None:
    assert chosen(f"({letter}) {text}", OPTIONS).letter in (letter, None)


@given(st.text(max_size=40))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert chosen(text, OPTIONS).letter in (None, *"ABCDE")


@given(st.lists(st.text("abcdef", min_size=1), min_size=2, max_size=10, unique=True), st.data())
def test_options_are_shuffled_and_the_letter_is_that_of_the_right_one(
    texts: list, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(texts) - 1))
    shown = choices("q?", texts, place, seed=3, where="here")
    assert sorted(shown.options) == sorted(texts)
    assert shown.options[LETTERS.index(shown.letter)] == texts[place]
    assert f"\n{shown.letter}) {texts[place]}" in shown.question


def test_the_order_depends_on_the_seed_and_the_question_alone() -> None:
    def order(seed: int, question: str = "q?") -> tuple[str, ...]:
        return choices(question, "wxyz", 0, seed, "here").options

    assert order(0) == order(0)
    assert len({order(seed) for seed in range(50)}) > 15
    letters = Counter(choices(f"{n}?", "wxyz", 0, 0, "here").letter for n in range(400))
    assert set(letters) == set("ABCD") and min(letters.values()) > 70


@pytest.mark.parametrize(
    ("options", "answer", "says"),
    [
        (["a"], 0, "options: got 1 different ones, none of them empty, allowed 2 to 20 texts, in here"),
        (["a", " "], 0, "one of them empty"),
        (["a", "a"], 0, "got 1 different ones"),
        (
            ["a", "b"],
            "C",
            "answer: got 'C', allowed a letter of AB, a place from 0 to 1, or an option's text",
        ),
        (["a", "b"], 2, "answer: got 2"),
        (["a", "b"], True, "answer: got True"),
        (["a", "b"], None, "answer: got None"),
        (["a", "b"], "AB", "answer: got 'AB'"),
    ],
)
def test_items_that_cannot_be_asked_are_named(options: list, answer: object, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        choices("q?", options, answer, 0, "here")


@pytest.mark.parametrize("answer", [1, "B", "y"])
def test_a_place_a_letter_and_a_text_name_the_right_option(answer: object) -> None:
    shown = choices("q?", ["x", "y", "x"], answer, 0, "here")  # x is shown once
    assert (sorted(shown.options), shown.options[LETTERS.index(shown.letter)]) == (["x", "y"], "y")


ROW = {"question": "2+2?", "answer": "4", "a": "3", "b": "5", "c": "22", "list": ["3", "4", "5", "22"]}


def env_of(folder: Path, row: dict[str, object], **columns: object) -> tuple[Choice, Task]:
    (folder / "items.jsonl").write_text(json.dumps(row))
    env = Choice({"test": {"file": folder / "items.jsonl", **columns}})
    return env, env.tasks("test")[0]


@pytest.mark.parametrize(
    "columns", [{"wrong": ["a", "b", "c"]}, {"options": "list"}, {"options": ["answer", "a", "b", "c"]}]
)
def test_options_from_columns(tmp_path: Path, columns: dict) -> None:
    env, task = env_of(tmp_path, ROW, **columns)
    right = LETTERS[task.metadata["options"].index("4")]
    assert task.answer == right
    for text, correct in ((f"\\boxed{{{right}}}", 1.0), ("Answer: 4", 1.0), ("\\boxed{3}", 0.0), ("4", 0.0)):
        assert asyncio.run(env.score(task, text)) == {"correct": correct}
    assert env.explain(task, "so\n**Answer:** 4.") == (
        f"the answer names {right} (the text of an option); the right one is {right}"
    )
    assert (
        env.explain(task, "?") == f"the answer names no option (there is no answer); the right one is {right}"
    )


def test_the_options_of_csv_stand_in_columns(tmp_path: Path) -> None:
    with (tmp_path / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer", "a", "b"), ("Which,\nthen?", "B", "no", "yes")])
    env = Choice({"test": {"file": tmp_path / "items.csv", "options": ["a", "b"]}})
    (task,) = env.tasks("test")
    assert task.prompt.startswith("Which,\nthen?\n\nA) ") and task.metadata["options"] in (
        ["no", "yes"],
        ["yes", "no"],
    )
    assert task.metadata["options"][LETTERS.index(task.answer or "")] == "yes"


def test_nested_columns_and_options_in_the_text(tmp_path: Path) -> None:
    row = {"prompt": [{"content": "A) 1 B) 2", "role": "user"}], "reward_model": {"ground_truth": "B"}}
    env, task = env_of(tmp_path, row, question="prompt.0.content", answer="reward_model.ground_truth")
    assert (task.prompt, task.answer) == ("A) 1 B) 2", "B")
    assert asyncio.run(env.score(task, "\\boxed{B}")) == {"correct": 1.0}
    for question, says in (
        ("prompt.1.content", r"no '1' in a list"),
        ("prompt.0.text", r"no 'text' in \['content'"),
    ):
        with pytest.raises(ConfigError, match=says):
            env_of(tmp_path, row, question=question, answer="reward_model.ground_truth")


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    source = {"file": tmp_path / "items.jsonl", "options": "list"}
    with pytest.raises(
        ConfigError, match="got the verdict 'math', allowed `choice` for questions with options"
    ):
        File({"test": source}, verdict="math")
    with pytest.raises(ValueError, match="options, wrong: got list and"):
        Choice({"test": source | {"wrong": ["a"]}})
    with pytest.raises(TaskError, match="list: got a str, allowed a list of texts, in item 0 of"):
        env_of(tmp_path, ROW | {"list": "3"}, options="list")
