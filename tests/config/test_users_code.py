"""A user's graph, agent, environment, model or coefficient that fails, or is another thing, is refused with its place."""

from pathlib import Path

import pytest

from aipo.config.build import Experiment, load_experiment
from aipo.errors import AipoError
from graphs.solo import PROMPTS

BOOM, EXIT = "    raise ValueError('boom')\n", "    raise SystemExit(4)\n"
ENV = (
    "from aipo.rollout import Task\n"
    "class E:\n"
    "    def splits(self): return ('a', 'b')\n"
    "    def tasks(self, split): return [Task(task_id=f'{split}/{n}', prompt='1?', answer='1', split=split) for n in (1, 2)]\n"
    "    def score(self, task, text): return {'correct': 1.0}\n"
)

SPLITS = "env.mixture={a: 1.0}", "evaluate.splits=[b]"
RUNS = "allowed code that runs, in {file}:"


AGENT = f"agents.verify={{graph: 'mine.py:f', prompt: {PROMPTS / 'verify.md'}}}"


def _agent(code: str) -> tuple[str, str]:
    return f"def f(spec):\n{code}", AGENT


def _chat(code: str) -> tuple[str, str]:
    return f"def f():\n{code}", "agents.verify={graph: 'graphs.verify:verify', model: 'mine.py:f'}"


def _env(old: str, new: str) -> tuple[str, str]:
    assert old in ENV
    return ENV.replace(old, new), "env.name=mine.py:E"


CASES: dict[str, tuple[tuple[str, str], str]] = {
    "graph raises": ((f"def f(*, agents):\n{BOOM}", "graph.name=mine.py:f"), f"graph mine.py:f: got ValueError: boom, {RUNS}2"),
    "graph exits": ((f"def f(*, agents):\n{EXIT}", "graph.name=mine.py:f"), f"graph mine.py:f: got sys.exit(4), {RUNS}2"),
    "agent raises": (_agent(BOOM), f"agent 'verify' of mine.py:f: got ValueError: boom, {RUNS}2"),
    "agent exits": (_agent(EXIT), f"agent 'verify' of mine.py:f: got sys.exit(4), {RUNS}2"),
    "a library raises": (_agent("    __import__('json').loads('')"), f"got JSONDecodeError: Expecting value: line 1 column 1 (char 0), {RUNS}2"),
    "agent takes nothing": (("def f(): ...", AGENT), "f() takes 0 positional arguments"),
    "chat raises": (_chat(BOOM), "agents.verify.options of mine.py:f: got ValueError: boom, allowed options"),
    "chat exits": (_chat(EXIT), "agents.verify.options of mine.py:f: got SystemExit: 4, allowed options"),
    "chat is none": (_chat("    ..."), "agents.verify.model: got mine.py:f, which makes a NoneType, allowed a LangChain chat model"),
    "env raises": (_env("E:", f"E:\n    def __init__(self):\n    {BOOM}"), f"environment mine.py:E: got ValueError: boom, {RUNS}4"),
    "env exits": (_env("E:", f"E:\n    def __init__(self):\n    {EXIT}"), f"environment mine.py:E: got sys.exit(4), {RUNS}4"),
    "env without a method": (_env("score", "scor"), "environment mine.py:E: got E without ['score'], allowed an object with the methods"),
    "env is none": (("def E(): ...", "env.name=mine.py:E"), "environment mine.py:E: got NoneType without ['splits', 'tasks', 'score']"),
    "splits are a text": (_env("('a', 'b')", "'ab'"), "splits of environment mine.py:E: got 'ab', allowed a tuple of names"),
    "splits are none": (_env("('a', 'b')", "None"), "splits of environment mine.py:E: got None, allowed a tuple of names"),
    "splits fail": (_env("('a', 'b')", "1 / 0"), f"environment mine.py:E: got ZeroDivisionError: division by zero, {RUNS}3"),
    "tasks fail": (_env("return [Task", "1 / 0; [Task"), f"tasks of mine.py:E: got ZeroDivisionError: division by zero, {RUNS}4"),
    "tasks are yielded": (_env("return [Task", "yield [Task"), "tasks of split 'a' of mine.py:E: got generator, allowed a list of Task"),
    "tasks are dicts": (_env("[Task", "[dict"), "tasks of split 'a' of mine.py:E: got dict, allowed Task"),
    "tasks of one id": (_env("/{n}", ""), "tasks of split 'a' of mine.py:E: got id 'a' twice, allowed each once"),
    "cluster is a number": (_env("answer='1'", "answer='1', cluster=3"), "cluster of task 'a/1': got 3, allowed text"),
    "question is a number": (_env("'1?'", "1"), "prompt of task 'a/1': got 1, allowed text"),
    "answer is a number": (_env("answer='1'", "answer=1"), "answer of task 'a/1': got 1, allowed text"),
    "coefficient raises": ((f"def f(pi):\n{BOOM}", "method.coefficient=mine.py:f"), f"coefficient mine.py:f: got ValueError: boom, {RUNS}2"),
    "model raises": ((f"def f():\n{BOOM}", "policy.model=mine.py:f"), f"policy.model mine.py:f: got ValueError: boom, {RUNS}2"),
    "model exits": ((f"def f():\n{EXIT}", "policy.model=mine.py:f"), f"policy.model mine.py:f: got sys.exit(4), {RUNS}2"),
    "model is none": (("def f(): ...", "policy.model=mine.py:f"), "policy.model mine.py:f: got None, allowed a function that returns a folder"),
}  # fmt: skip


def _build(experiment: Experiment) -> None:
    experiment.scored_chats()
    experiment.check_env()
    experiment.build_model()


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_its_place(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code, override), says = CASES[case]
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(AipoError) as caught:
        _build(load_experiment("mask", [override, *(SPLITS if "E" in override else ())]))
    assert says.format(file=file) in str(caught.value)


LAZY = (
    "class Lazy:\n"
    "    def __len__(self): return 1\n"
    "    def __getitem__(self, n): return [Task(task_id='1', prompt='1?', answer='1', split='a')][n]\n"
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("('a', 'b')", "['a', 'b']"),
        ("('a', 'b')", "{'a': 1, 'b': 2}.keys()"),
        ("('a', 'b')", "(name for name in 'ab')"),
        ("return [Task", "return Lazy() if split == 'a' else [Task"),
        ("answer='1'", "answer=None"),
    ],
)
def test_what_is_right_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = _env(old, new)
    (tmp_path / "mine.py").write_text(LAZY + code + "def f(): return 'here'\n")
    _build(load_experiment("mask", ["env.name=mine.py:E", "policy.model=mine.py:f", *SPLITS]))
