"""The math environment: which answer counts, and that no answer, however odd, hangs or breaks anything."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.config.build import Experiment
from aipo.config.schema import Config
from aipo.errors import ConfigError, ScoreError, TaskError
from aipo.rollout.env import Task
from envs.math import Math, final_answer
from kit.parts import real_splits

ASKED = Task(task_id="t/0", prompt="What is 6 x 7?", answer="42", split="t")
FORM = "\n\nReason step by step, and put the final answer in \\boxed{}."


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Math]:
    file = tmp_path_factory.mktemp("items") / "items.jsonl"
    file.write_text(json.dumps({"question": ASKED.prompt, "answer": "42"}))
    env = Math({"t": file}, seconds=2.0)
    yield env
    env.close()


def score(env: Math, text: str, task: Task = ASKED) -> float:
    return asyncio.run(env.score(task, text))["correct"]


# What the policy wrote, and the answer that counts.
ANSWERS = {
    "one box": ("So \\boxed{42}.", "42"),
    "the last of several": ("\\boxed{41}, no, \\boxed{42}", "42"),
    "a wrong one afterwards": ("\\boxed{42}, no, \\boxed{41}", "41"),
    "none": ("The answer is 42.", None),
    "nothing at all": ("", None),
    "only the form": (FORM, None),
    "the form again": ("\\boxed{42}" + FORM, "42"),
    "blank": ("\\boxed{42} \\boxed{ \n}", "42"),
    "unclosed": ("\\boxed{42", None),
    "unclosed afterwards": ("\\boxed{42} so \\boxed{41", None),
    "unclosed inside": ("\\boxed{\\frac{1}{2}", None),
    "braces": ("\\boxed{\\frac{1}{2}} and so on}", "\\frac{1}{2}"),
    "escaped braces": ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    "a line end before the brace": ("\\boxed{1 \\\\}", "1 \\\\"),
    "box in a box": ("\\boxed{\\boxed{42}}", "42"),
    "space before the brace": ("\\boxed {42}", "42"),
    "without braces": ("\\boxed 42", None),
    "another box": ("\\fbox{42} \\boxedx{42}", None),
    "across lines": ("\\boxed{\n42\n}", "\n42\n"),
}


@pytest.mark.parametrize(("text", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_the_answer_that_counts(text: str, answer: str | None) -> None:
    assert final_answer(text, ASKED.prompt) == answer


# What the policy wrote without a box, and the answer where answer lines are allowed.
LINES = {
    "a sentence": ("2+2=4.\nThe answer is 42.", "42"),
    "a decimal": ("The answer is 3.5.", "3.5"),
    "a line": ("Answer: 42\nThat is all.", "42"),
    "below": ("Answer:\n42", "42"),
    "bold": ("**Final Answer:** **42**", "42"),
    "a heading": ("### Answer = $42$", "$42$"),
    "the last of several": ("The answer is 41.\nNo.\nSo the answer is 42", "42"),
    "a box before it": ("\\boxed{41}\nThe answer is 42.", "41"),
    "an unclosed box behind it": ("The answer is 42. \\boxed{", None),
    "an empty box behind it": ("Answer: 42 \\boxed{}", "42"),
    "the echoed form": (FORM + "\nAnswer: 42", "42"),
    "the echoed question": (ASKED.prompt, None),
    "within a line": ("I think the answer is 42, maybe", None),
    "no answer": ("Answer:", None),
    "another word": ("Answer key: 42\nAnswers: 42\nThe answerer is Bob", None),
    "not an answer": ("The answer is not 42", "not 42"),
    "within a sentence behind": ("2+2=4. The answer is 42.", None),
}


@pytest.mark.parametrize(("text", "answer"), LINES.values(), ids=LINES)
def test_the_answer_line_that_counts(text: str, answer: str | None) -> None:
    assert final_answer(text, ASKED.prompt, line=True) == answer
    if "\\boxed{41}" not in text:
        assert final_answer(text, ASKED.prompt) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "Answer: ",
        "Answer:\n",
        "*",
        "the ",
        "Answer: a" + "*" * 1000 + "x",
        "answer is",
        " \t",
        "So the ",
    ],
)
def test_a_text_of_1_MB_without_a_box_is_read_in_no_time(text: str) -> None:
    """A careless pattern would take hours, and end in the time limit of a test: what is read here is not killed."""
    counted = final_answer(text * (2**20 // len(text)) + "\nAnswer: 42", ASKED.prompt, line=True)
    assert counted == "42"


def test_a_question_that_is_repeated_is_no_answer() -> None:
    question = "It was shown that $x=\\boxed{7}$. What is $x^2$?"
    assert final_answer(f"\\boxed{{49}}\n\n{question}{FORM}", question) == "49"
    assert final_answer(f"{question} I do not know.", question) is None


@given(st.text(alphabet="\\boxed{} \n4", max_size=60))
def test_an_answer_is_a_balanced_part_of_the_text(text: str) -> None:
    answer = final_answer(text, ASKED.prompt)
    assert answer is None or (answer in text and answer.strip())


# 1 right, 0 wrong, None unscored; "0 or None" where that depends on how fast the machine is.
ODD = {
    "right": ("\\boxed{42}", {1.0}),
    "right in another form": ("\\boxed{\\frac{84}{2}}", {1.0}),
    "wrong": ("\\boxed{41}", {0.0}),
    "several in one": ("\\boxed{41, 42, 43}", {0.0}),
    "a choice": ("\\boxed{42 \\text{ or } 43}", {0.0}),
    "echoed prompt and an answer": (ASKED.prompt + FORM + " \\boxed{42}", {1.0}),
    "an answer and the echoed prompt": ("\\boxed{42}\n" + ASKED.prompt + FORM, {1.0}),
    "empty": ("", {0.0}),
    "unclosed mathematics": ("$\\frac{1}{2 \\boxed{42} $$ \\[ \\begin{align}", {1.0}),
    "a tower": ("\\boxed{9^9^9^9}", {0.0}),
    "a tower in braces": ("\\boxed{9^{9^{9^9}}}", {None}),
    "a tower behind an answer": ("\\boxed{9^{9^{9^9}}}, no: \\boxed{42}", {1.0}),
    "factorials": ("\\boxed{((9!)!)!}", {None}),
    "1 MB before": ("x" * 2**20 + "\\boxed{42}", {1.0}),
    "1 MB behind": ("\\boxed{42}" + "{" * 2**20, {1.0}),
    "1 MB of boxes": ("\\boxed{" * 2**17, {0.0}),
    "1 MB of empty boxes": ("\\boxed{42}" + "\\boxed{}" * 2**17, {1.0}),
    "1 MB of a digit": ("\\boxed{" + "1" * 2**20 + "}", {0.0, None}),
    "1 MB of a letter": ("\\boxed{" + "a" * 2**20 + "}", {0.0, None}),
    "1 MB of nesting": ("\\boxed{" + "{" * 2**19 + "}" * 2**19 + "}", {0.0, None}),
    "deep brackets": ("\\boxed{" + "(" * 2000 + "42" + ")" * 2000 + "}", {0.0, None}),
    "deep roots": ("\\boxed{" + "\\sqrt{" * 2000 + "42" + "}" * 2000 + "}", {0.0, None}),
    "bytes": (bytes(range(256)).decode("latin-1") + "\\boxed{\x00\x07\ufffd\u202e42}", {0.0}),
    "half an emoji": ("\ud83d \\boxed{\ud83d}", {0.0}),
    "code": ("\\boxed{__import__('os').system('exit')}", {0.0, None}),
    "zero": ("\\boxed{1/0}", {0.0}),
    "infinity": ("\\boxed{\\infty}", {0.0}),
}


@pytest.mark.parametrize(("text", "allowed"), ODD.values(), ids=ODD)
def test_odd_answers_are_right_wrong_or_unscored_with_a_reason(
    env: Math, text: str, allowed: set[float | None]
) -> None:
    try:
        verdict = score(env, text)
    except ScoreError as error:
        assert "allowed" in str(error)
        verdict = None
    assert verdict in allowed


def test_after_all_that_an_answer_is_still_scored(env: Math) -> None:
    async def burst() -> list[object]:
        odd = ["\\boxed{9^{9^{9^9}}}", "\\boxed{42}", "\\boxed{41}", "\\boxed{((9!)!)!}"]
        return await asyncio.gather(*(env.score(ASKED, text) for text in odd), return_exceptions=True)

    tower, right, wrong, factorials = asyncio.run(burst())
    assert (right, wrong) == ({"correct": 1.0}, {"correct": 0.0})
    assert isinstance(tower, ScoreError) and isinstance(factorials, ScoreError)
    assert len(env._verdicts["math"].sandbox._alive) <= 2


def test_splits_and_tasks(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"problem": f"{name}?", "answer": 1}))
    env = Math({"train": str(tmp_path / "a.jsonl"), "test": {"file": tmp_path / "b.jsonl"}})
    assert env.splits() == ("train", "test")
    assert [task.prompt for task in env.tasks("test")] == ["b?"]
    assert env.tasks("test") is env.tasks("test")
    with pytest.raises(TaskError, match=r"got 'c', allowed one of \['train', 'test'\]"):
        env.tasks("c")


@pytest.mark.parametrize(
    ("solution", "shown"),
    [
        ("6 x 7 = 42.", "6 x 7 = 42.\n\n\\boxed{42}"),
        ("It is $\\boxed{42}$.", "It is $\\boxed{42}$."),
        ("Two boxes: \\boxed{}", "Two boxes: \\boxed{}\n\n\\boxed{42}"),
    ],
)
def test_a_demonstration_has_its_answer_in_a_box(env: Math, solution: str, shown: str) -> None:
    asked = replace(ASKED, metadata={"solution": solution})
    assert env.demonstration(asked) == shown
    assert score(env, shown, asked) == 1.0
    assert env.demonstration(ASKED) is None


def test_what_is_wrong_is_refused(env: Math) -> None:
    with pytest.raises(TaskError, match="answer of task 't/0': got None"):
        score(env, "\\boxed{42}", Task(task_id="t/0", prompt="q", answer=None, split="t"))
    with pytest.raises(ScoreError, match=r"canonical answer: got '\.', allowed"):
        score(env, "\\boxed{42}", Task(task_id="t/0", prompt="q", answer=".", split="t"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"got no \['splits'\]"),
        ({"splits": {}}, "splits: Dictionary should have at least 1 item"),
        ({"splits": {"t": {"fiel": "a.jsonl"}}}, "splits.t.fiel: Extra inputs are not permitted"),
        ({"splits": {"t": "a.txt"}}, "splits.t: Value error, file: got 'a.txt', allowed .jsonl"),
        ({"splits": {"t": "a.jsonl"}, "workers": 0}, "workers: Input should be greater than or equal to 1"),
        ({"splits": {"t": "a.jsonl"}, "seconds": "soon"}, "seconds: Input should be a valid number"),
        ({"splits": {"t": "a.jsonl"}, "second": 5}, r"got \['second'\], allowed"),
    ],
)
def test_options_of_a_configuration_that_are_wrong_are_named(options: dict, says: str) -> None:
    env = {"name": "envs.math:Math", "options": options}
    config = Config.model_validate({"policy": {"model": "m"}, "env": env})
    with pytest.raises(ConfigError, match=r"env\.options of envs\.math:Math: .*" + says):
        _ = Experiment(config).env


def test_canonical_answers_of_all_real_items_are_right_and_others_are_not() -> None:
    env = Math(real_splits())
    tasks = [task for split in env.splits() for task in env.tasks(split)]
    sizes = {"gsm8k": 1319, "math500": 500, "aime24": 30, "aime25": 30}
    assert {split: len(env.tasks(split)) for split in env.splits()} == sizes
    shown = {task.answer: env.demonstration(task) for task in env.tasks("gsm8k")}
    assert all(text and "<<" not in text and final_answer(text, "") == a for a, text in shown.items())
    assert not any(env.demonstration(task) for task in tasks if task.split != "gsm8k")

    async def scores(tasks: list[Task], answers: list[str]) -> list[float]:
        texts = [
            f"{task.prompt}{FORM} So it is $\\boxed{{{a}}}$." for task, a in zip(tasks, answers, strict=True)
        ]
        parts = await asyncio.gather(*map(env.score, tasks, texts))
        return [part["correct"] for part in parts]

    assert asyncio.run(scores(tasks, [str(task.answer) for task in tasks])) == [1.0] * 1879
    some = [task for task in tasks if task.split != "gsm8k"]
    right = [str(task.answer) for task in some]
    wrong = [*right[1:], right[0]]
    found = zip(right, wrong, asyncio.run(scores(some, wrong)), strict=True)
    # A neighbour's answer is right only where it is the same one; `x=5` is a way to say 5.
    assert {(a, b) for a, b, verdict in found if verdict != (a == b)} == {("5", "x=5")}
    env.close()
