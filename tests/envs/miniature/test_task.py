"""The miniature: its table, its splits and its scoring."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import ConfigError, TaskError
from aipo.rollout.env import Task
from envs.miniature.arithmetic import OPERANDS, VALUES, derivation, slip, unborrowed
from envs.miniature.task import Facts, Miniature

WITH_ONE_SUM = ("easy_train", "easy", "hard", "heldout")


@pytest.fixture(params=(0, 1, 2))
def env(request: pytest.FixtureRequest) -> Miniature:
    return Miniature(request.param)


@pytest.fixture
def tasks(env: Miniature) -> list[Task]:
    """Of all splits."""
    return [task for split in env.splits() for task in env.tasks(split)]


def test_a_hundred_facts_of_three_kinds_with_values_of_their_own(env: Miniature) -> None:
    facts = env.facts
    kinds = (facts.known, facts.unknown, facts.practice)
    assert [len(kind) for kind in kinds] == [30, 40, 30]
    assert sorted(sum(kinds, ())) == sorted(facts.value) == [f"{a}@{b}" for a in range(10) for b in range(10)]
    assert len(set(facts.value.values())) == 100
    assert all(value in VALUES for value in facts.value.values())


def test_the_seed_draws_the_table() -> None:
    assert Facts.draw(0) == Facts.draw(0)
    assert Facts.draw(0) != Facts.draw(1)
    assert Miniature(3).tasks("hard") == Miniature(3).tasks("hard")


def test_splits_and_their_sizes() -> None:
    env = Miniature()
    # 30 known facts x 12 operands + 240 sums, x 6 + 60; 40 unknown facts x 12, x 6
    sizes = {"easy_train": 600, "easy": 240, "hard": 480, "heldout": 240}
    crafts = {"borrow_train": 480, "borrow": 120, "nines_train": 480, "nines": 120}
    crafts |= {"shortcut_train": 480, "shortcut": 120}
    assert {split: len(env.tasks(split)) for split in env.splits()} == sizes | crafts


def test_a_demonstration_is_the_derivation_line_by_line() -> None:
    env = Miniature()
    with_fact, plain = env.tasks("hard")[0], env.tasks("easy_train")[-1]
    value, operand = env.facts.value[with_fact.cluster], with_fact.metadata["operand"]
    total = value + operand
    lines = [f"{with_fact.cluster}={value}", f"{value}+{operand}={total}", f"#{total}"]
    assert env.demonstration(with_fact) == "\n".join(lines)
    expression = plain.prompt.removesuffix("?\n")
    assert env.demonstration(plain) == f"{expression}{plain.answer}\n#{plain.answer}"
    assert env.demonstration(Task(task_id="t", prompt="?", answer=None, split="s")) is None


def test_every_demonstration_is_right(env: Miniature, tasks: list[Task]) -> None:
    assert {env.score(task, str(env.demonstration(task)))["correct"] for task in tasks} == {1.0}


def test_no_prompt_and_no_name_comes_twice(tasks: list[Task]) -> None:
    assert len({task.prompt for task in tasks}) == len({task.task_id for task in tasks}) == len(tasks)


def test_held_out_combinations_are_of_the_same_unknown_facts(env: Miniature) -> None:
    hard, heldout = env.tasks("hard"), env.tasks("heldout")
    assert {t.cluster for t in hard} == {t.cluster for t in heldout} == set(env.facts.unknown)
    combinations = [{(t.cluster, t.metadata["operand"]) for t in tasks} for tasks in (hard, heldout)]
    assert combinations[0].isdisjoint(combinations[1])


def test_easy_tasks_have_known_facts_or_none(env: Miniature) -> None:
    facts = {t.metadata["fact"] for split in ("easy_train", "easy") for t in env.tasks(split)}
    assert facts == {*env.facts.known, None}


@pytest.mark.parametrize("split", WITH_ONE_SUM)
def test_the_answer_follows_from_the_table_and_the_prompt(split: str) -> None:
    env = Miniature()
    for task in env.tasks(split):
        start, operand = task.prompt.removesuffix("=?\n").split("+")
        value = env.facts.value[start] if "@" in start else int(start)
        assert int(operand) in OPERANDS
        assert task.answer == str(value + int(operand))
        assert len(task.answer) == 3
        assert task.split == split
        # sums share nothing with each other: each is a cluster of its own
        assert task.cluster == (start if "@" in start else "")


def test_both_subtractions_need_a_borrow(env: Miniature) -> None:
    for task in (*env.tasks("borrow_train"), *env.tasks("borrow")):
        a, b, c = map(int, task.prompt.removesuffix("=?\n").split("-"))
        assert task.answer == str(a - b - c) and len(task.answer) == 3
        for value, operand in ((a, b), (a - b, c)):
            place = 1 if operand < 10 else 10
            assert value // place % 10 < operand // place
            assert unborrowed(value, operand) != value - operand


def test_the_complement_comes_before_the_sum(env: Miniature) -> None:
    for task in (*env.tasks("nines_train"), *env.tasks("nines")):
        value, operand = task.prompt.removesuffix("=?\n").removeprefix("~").split("+")
        nines = "".join(str(9 - int(digit)) for digit in value)
        assert int(nines) in VALUES
        assert task.answer == str(int(nines) + int(operand)) and len(task.answer) == 3


def test_99_leaves_three_digits_and_giving_back_carries_nothing(env: Miniature) -> None:
    for task in (*env.tasks("shortcut_train"), *env.tasks("shortcut")):
        value = int(task.prompt.removesuffix("-99=?\n"))
        assert task.answer == str(value - 99) and len(task.answer) == 3
        assert task.answer[1] == str(value)[1]


@pytest.mark.parametrize("split", ["borrow", "nines", "shortcut"])
def test_no_value_begins_two_tasks_of_a_craft(env: Miniature, split: str) -> None:
    prompts = [task.prompt for name in (f"{split}_train", split) for task in env.tasks(name)]
    values = [prompt.lstrip("~")[:3] for prompt in prompts]
    assert len(set(values)) == len(values) == 600


def test_demonstrations_of_the_other_splits() -> None:
    env = Miniature()
    borrow, nines, shortcut = (
        Task(task_id="t", prompt=f"{expression}=?\n", answer=answer, split="s")
        for expression, answer in (("523-7-30", "486"), ("~582+20", "437"), ("523-99", "424"))
    )
    assert env.demonstration(borrow) == "523-7=516\n516-30=486\n#486"
    assert env.demonstration(nines) == "~582=417\n417+20=437\n#437"
    assert env.demonstration(shortcut) == "523-99=424\n#424"
    assert derivation(523, [-7, 20]) == ["523-7=516", "516+20=536"]


def test_smaller_from_larger() -> None:
    slipped = {(523, 7): 524, (523, 2): 521, (523, 30): 513, (523, 10): 513, (500, 9): 509, (500, 50): 550}
    assert {pair: unborrowed(*pair) for pair in slipped} == slipped


def test_another_split_is_refused() -> None:
    message = r"split of the miniature: got 'easi', allowed one of \['easy_train', 'easy', .*'shortcut'\]"
    with pytest.raises(TaskError, match=message):
        Miniature().tasks("easi")


WORK = "3@7=582\n582+5=587\n"
RIGHT = (f"{WORK}#587", "#587", "#587\n", f"<consult:knowledge>3@7</consult>{WORK}#587")
WRONG = (
    f"{WORK}#588",
    "#587\n#588",
    "#587\n582",
    "587",
    "# 587",
    "#587 ",
    "x#587",
    "#0587",
    "#587<pad>",
    "#５８７",
    "",
)


@pytest.mark.parametrize("text", RIGHT + WRONG)
def test_only_the_last_line_counts_and_it_counts_exactly(text: str) -> None:
    task = Task(task_id="t", prompt="3@7+5=?\n", answer="587", split="hard")
    assert Miniature().score(task, text)["correct"] == float(text in RIGHT)


@pytest.mark.parametrize(
    ("prompt", "answer", "text", "holds"),
    [
        ("3@7+5=?\n", "587", "3@7=582\n582+5=587\n#587", 1.0),
        ("3@7+5=?\n", "587", "#587", 1.0),
        ("3@7+5=?\n", "587", "582+5=587\n\n#587\n", 1.0),
        ("3@7+5=?\n", "587", "3@1=582\n582+5=587\n#587", 0.0),
        ("3@7+5=?\n", "587", "3@7=582\n582+5=586\n#587", 0.0),
        ("3@7+5=?\n", "587", "3@7=582\n#1\n#587", 0.0),
        ("3@7+5=?\n", "587", "3@7=582\n582+5=587\n#588", 1.0),
        ("523-7-30=?\n", "486", "523-7=516\n516-30=486\n#486", 1.0),
        ("523-7-30=?\n", "486", "523-7=524\n516-30=486\n#486", 0.0),
        ("~582+20=?\n", "437", "~582=417\n417+20=437\n#437", 1.0),
        ("~582+20=?\n", "437", "~582=427\n417+20=437\n#437", 0.0),
    ],
)
def test_a_wrong_line_on_the_way_to_the_answer_is_noted(
    prompt: str, answer: str, text: str, holds: float
) -> None:
    task = Task(task_id="t", prompt=prompt, answer=answer, split="hard")
    assert Miniature().score(task, text)["derivation"] == holds


def test_a_task_without_an_answer_is_an_error() -> None:
    task = Task(task_id="hard/3@7+5", prompt="3@7+5=?\n", answer=None, split="hard")
    with pytest.raises(TaskError, match="answer of task 'hard/3@7\\+5': got None"):
        Miniature().score(task, "#587")


@given(total=st.integers(110, 989), rng=st.randoms(use_true_random=False))
def test_a_slip_is_wrong_and_near(total: int, rng) -> None:
    assert slip(total, rng) - total in (-10, -1, 1, 10)


def test_more_facts_and_longer_sums() -> None:
    env = Miniature(0, size=20, terms=3)
    assert [len(kind) for kind in (env.facts.known, env.facts.unknown, env.facts.practice)] == [60, 80, 60]
    assert {split: len(env.tasks(split)) for split in ("hard", "heldout")} == {"hard": 960, "heldout": 480}
    task = env.tasks("hard")[0]
    value = env.facts.value[task.cluster]
    first, second, third = map(int, task.prompt.removesuffix("=?\n").split("+")[1:])
    assert env.demonstration(task) == (
        f"{task.cluster}={value}\n{value}+{first}={value + first}\n"
        f"{value + first}+{second}={value + first + second}\n"
        f"{value + first + second}+{third}={value + first + second + third}\n#{value + first + second + third}"
    )


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 81}, {"terms": 0}])
def test_sizes_that_do_not_exist_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"of the miniature: got \d+, allowed 1"):
        Miniature(**options)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_a_carry_no_digit_exceeds_9(seed: int) -> None:
    env = Miniature(seed, size=4, carry=False)
    sizes = {"easy_train": 12 * 6 + 240, "easy": 12 * 3 + 60, "hard": 16 * 6, "heldout": 16 * 3}
    sizes |= {"nines_train": 10 * 6, "nines": 10 * 3, "shortcut_train": 240, "shortcut": 60}
    assert {split: len(env.tasks(split)) for split in sizes} == sizes
    for split in sizes:
        for task in env.tasks(split):
            for line in str(env.demonstration(task)).splitlines():
                if added := re.fullmatch(r"(\d{3})\+(\d+)=(\d{3})", line):
                    a, b, total = (int(number) for number in added.groups())
                    assert [int(x) + int(y) for x, y in zip(str(a), f"{b:03}", strict=True)] == [
                        int(digit) for digit in str(total)
                    ]
    prompts = [task.prompt for split in sizes for task in env.tasks(split)]
    assert len(set(prompts)) == len(prompts)


def test_several_operands_where_nothing_is_carried_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"terms of the miniature: got 2, allowed .* 1 with carry=False"):
        Miniature(terms=2, carry=False)
    with pytest.raises(ConfigError, match="size of the miniature: got 45, allowed 1 to 44"):
        Facts.draw(0, 45, carry=False)
