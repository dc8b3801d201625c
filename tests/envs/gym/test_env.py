"""Families of reasoning-gym: which questions a split has, which answers are right, and that no answer hangs anything."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo.config.build import Experiment, load_experiment
from aipo.config.schema import Config
from aipo.errors import ConfigError, LoadError, ScoreError, TaskError
from aipo.rollout.env import Task
from envs.gym import Gym, families
from kit.parts import lacking


@pytest.fixture(autouse=True)
def reasoning_gym_is_there() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        lacking("reasoning-gym", "families of reasoning-gym: they are not installed: pip install -e '.[gym]'")


@pytest.fixture(scope="module")
def env() -> Iterator[Gym]:
    env = Gym(
        splits={
            "sums": {"family": "chain_sum", "size": 5, "options": {"min_terms": 2, "max_terms": 2}},
            "countdown": {"family": "countdown", "size": 1},
            "primes": {"family": "prime_factorization", "size": 1},
            "colours": {"family": "graph_color", "size": 1},
        },
        seconds=2.0,
    )
    yield env
    env._sandbox.close()


def score(env: Gym, text: str, task: Task) -> float:
    return asyncio.run(env.score(task, text))["correct"]


def gym(**options: object) -> Gym:
    return Gym(splits={"a": {"family": "spell_backward", **options}})


def test_a_question_and_its_answer_are_the_familys(env: Gym) -> None:
    task = env.tasks("sums")[0]
    asked, _, terms = task.prompt.rpartition(": ")
    left, sign, right = terms.removesuffix(" =").split(" ")
    assert "arithmetic problem" in asked
    assert task.answer == str(int(left) + int(right) if sign == "+" else int(left) - int(right))
    assert (task.task_id, task.split) == ("sums/0", "sums")
    assert task.metadata["source_dataset"] == "chain_sum"


def test_the_same_words_make_the_same_tasks_and_another_seed_makes_others() -> None:
    assert gym(size=20).tasks("a") == gym(size=20).tasks("a")
    assert gym(size=20).tasks("a") != gym(size=20, seed=1).tasks("a")


def test_tasks_can_be_asked_for_while_an_event_loop_runs() -> None:
    async def ask() -> int:
        return len(gym(size=3).tasks("a"))

    assert asyncio.run(ask()) == 3


@settings(max_examples=8)
@given(seeds=st.lists(st.integers(0, 3), min_size=2, max_size=3), late=st.integers(0, 2))
def test_no_question_stands_in_two_splits_whichever_is_made_first(seeds: list[int], late: int) -> None:
    few = {"min_word_len": 3, "max_word_len": 3}  # so few words that seeds meet
    splits = {
        f"s{i}": {"family": "spell_backward", "size": 20, "seed": seed, "options": few}
        for i, seed in enumerate(seeds)
    }
    env, again = Gym(splits=splits), Gym(splits=splits)
    again.tasks(f"s{min(late, len(seeds) - 1)}")
    asked = [task.prompt for split in splits for task in env.tasks(split)]
    assert len(asked) == len(set(asked)) == 20 * len(seeds)
    assert asked == [task.prompt for split in splits for task in again.tasks(split)]


def test_a_family_with_too_few_questions_is_refused() -> None:
    small = {"family": "chain_sum", "size": 60, "options": {"max_terms": 2, "max_digits": 1}}  # 200 questions
    env = Gym(splits={"a": small, "b": {**small, "size": 150}})
    assert len(env.tasks("a")) == 60
    with pytest.raises(
        TaskError, match=r"split 'b': got \d+ different ones beside those of \['a'\] among \d+ items"
    ):
        env.tasks("b")


def test_a_split_that_is_far_too_large_is_refused_at_once() -> None:
    with pytest.raises(TaskError, match=r"split 'a': got \d{4} different ones among \d{5} items"):
        gym(size=2_000_000, options={"min_word_len": 3, "max_word_len": 3}).tasks("a")


def test_what_is_right_and_what_is_not(env: Gym) -> None:
    task = env.tasks("sums")[0]
    answer = str(task.answer)
    assert score(env, f"It is \\boxed{{{answer}}}.", task) == 1.0
    assert score(env, f"\\boxed{{7777}}, no: \\boxed{{{answer}}}", task) == 1.0
    assert score(env, f"\\boxed{{{answer}}}, no: \\boxed{{7777}}", task) == 0.0
    assert score(env, answer, task) == 0.0
    # Points for an answer that is nearly right are no reward.
    assert score(env, f"\\boxed{{so it is {answer}}}", task) == 0.0


@pytest.mark.parametrize("split", ["sums", "countdown", "primes"])
def test_a_demonstration_is_right(env: Gym, split: str) -> None:
    task = env.tasks(split)[0]
    shown = env.demonstration(task)
    assert shown == f"\\boxed{{{task.answer}}}"
    assert score(env, shown, task) == 1.0


def test_where_many_answers_are_right_nothing_is_demonstrated(env: Gym) -> None:
    (task,) = env.tasks("colours")
    assert task.answer is None and env.demonstration(task) is None
    assert score(env, "\\boxed{{}}", task) == 0.0


def test_an_answer_that_a_family_cannot_read_is_wrong(env: Gym) -> None:
    (task,) = env.tasks("primes")
    for answer in ("no", "2 x", "9" * 5000, "\x00"):
        assert score(env, f"\\boxed{{{answer}}}", task) == 0.0


def test_an_answer_that_takes_for_ever_is_unscored_and_the_next_one_is_not(env: Gym) -> None:
    (task,) = env.tasks("countdown")
    with pytest.raises(ScoreError, match=r"got no result, allowed 2 s of processor time"):
        score(env, "\\boxed{9**9**9**9}", task)
    assert score(env, str(env.demonstration(task)), task) == 1.0


def test_every_family_calls_its_own_answers_right_and_others_wrong() -> None:
    import reasoning_gym

    slow = {"knight_swap", "quantum_lock", "arc_agi"}  # seconds at work on each item
    names = sorted({*reasoning_gym.factory.DATASETS} - {*families.REFUSED} - slow)
    assert len(names) > 90
    env = Gym(splits={name: {"family": name, "size": 2} for name in names}, seconds=20.0)
    tasks = [task for name in names for task in env.tasks(name)]
    assert {task.split for task in tasks if task.answer is None} <= {
        *("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour")
    }
    shown = [(task, task.answer) for task in tasks if task.answer is not None]
    guesses = ("I have no idea", "nan", "-7")
    wrong = [(task, answer) for task in tasks for answer in guesses if answer != task.answer]

    async def scores() -> list[dict[str, float]]:
        made = (env.score(task, f"\\boxed{{{answer}}}") for task, answer in [*shown, *wrong])
        return await asyncio.gather(*made)

    expected = [1.0] * len(shown) + [0.0] * len(wrong)
    found = [parts["correct"] for parts in asyncio.run(scores())]
    outcomes = zip([*shown, *wrong], found, expected, strict=True)
    assert [(task.task_id, answer) for (task, answer), correct, right in outcomes if correct != right] == []


@pytest.mark.parametrize(
    ("family", "number"),
    [("gsm_symbolic", 7), ("codeio", None)],
    ids=["a fraction", "braces without a partner"],
)
def test_items_that_nobody_could_answer_are_passed_over(family: str, number: int | None) -> None:
    import reasoning_gym

    all_of = reasoning_gym.create_dataset(family, seed=0, size=60 * families.LOOKED_AT)
    tasks = Gym(splits={"a": {"family": family, "size": 60}}).tasks("a")
    assert [task.prompt for task in tasks] != [all_of[i]["question"] for i in range(60)]
    if number is not None:
        assert all_of[number]["question"] not in {task.prompt for task in tasks}


def test_another_family_may_not_ask_the_same() -> None:
    few = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    decimals = {**few, "min_decimal_places": 0, "max_decimal_places": 0}
    env = Gym(
        splits={
            "a": {"family": "chain_sum", "size": 50, "options": few},
            "b": {"family": "decimal_chain_sum", "size": 50, "options": decimals},
        }
    )
    b, a = ({task.prompt for task in env.tasks(split)} for split in "ba")
    assert len(a) == len(b) == 50 and not a & b


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({}, "splits: Dictionary should have at least 1 item"),
        ({"a": {}}, "splits.a.family: Field required"),
        ({"a": {"family": "gcd", "sise": 3}}, "splits.a.sise: Extra inputs are not permitted"),
        ({"a": {"family": "gcd", "size": 0}}, "splits.a.size: Input should be greater than or equal to 1"),
        ({"a": {"family": "gcd", "options": {"seed": 1}}}, r"splits.a.options: Value error, got \['seed'\]"),
    ],
)
def test_splits_of_a_configuration_that_are_wrong_are_named(splits: object, says: str) -> None:
    options = {"env": {"name": "envs.gym:Gym", "options": {"splits": splits}}}
    with pytest.raises(ConfigError, match=r"env\.options of envs\.gym:Gym: .*" + says):
        _ = Experiment(Config.model_validate({"policy": {"model": "m"}, **options})).env


@pytest.mark.parametrize(
    ("family", "says"),
    [
        *(
            ({"family": name}, f"got {name!r}, which {why}, allowed")
            for name, why in families.REFUSED.items()
        ),
        ({"family": "spell_backwards"}, r"got 'spell_backwards', allowed one of \['ab', .*'spell_backward'"),
        (
            {"family": "gcd", "options": {"largest": 3}},
            r"got \{'largest': 3\} .*, allowed what GCDConfig has",
        ),
        (
            {"family": "gcd", "options": {"min_value": -1}},
            r"got \{'min_value': -1\} .*, allowed what GCDConf",
        ),
    ],
)
def test_a_family_that_cannot_be_used_is_refused(family: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Gym(splits={"a": family}).tasks("a")


def test_a_split_that_does_not_exist_is_refused(env: Gym) -> None:
    says = r"split of the gym: got 'sum', allowed one of \['sums', 'countdown'"
    with pytest.raises(TaskError, match=says):
        env.tasks("sum")
    with pytest.raises(TaskError, match=says):
        score(env, "\\boxed{3}", Task(task_id="sum/0", prompt="1 + 2 =", answer="3", split="sum"))


def test_a_family_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.gym.env._PATIENCE", 0.001)
    with pytest.raises(TaskError, match=r"items of 'spell_backward': envs.gym.items:items: got .*, allowed"):
        gym().tasks("a")


def test_without_reasoning_gym_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    families.dataset.cache_clear()
    with pytest.raises(LoadError, match=r"pip install -e '\.\[gym\]'"):
        gym().tasks("a")


def test_the_readmes_configuration_is_one(tmp_path: Path) -> None:
    text = (Path(families.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    block = text.split("## reasoning-gym")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "my.yaml").write_text(block, encoding="utf-8")
    config = load_experiment(str(tmp_path / "my.yaml"))
    env = config.env
    assert set(config.mixture) <= {*env.splits()} == {"backward", "train", "sums"}
    assert [len(env.tasks(split)) for split in env.splits()] == [200, 2000, 500]
    assert config.graph_options["prompt"] == "policy.md"
