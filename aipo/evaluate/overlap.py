"""`aipo overlap`: which questions of a test source stand in a training source, by their n-grams of words.

GPT-3 (2005.14165, appendix C) calls a test item contaminated that shares an n-gram with the training data, with n = 13 for
most data sets. Here the share of its n-grams is said as well, so that common phrases can be told from copies.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from aipo.errors import ConfigError
from aipo.evaluate.tasks import environment
from aipo.rollout.env import Task, check_tasks
from aipo.util.console import line_table, print_line
from aipo.util.imports import users_code
from aipo.util.output import print_result

_WORD = re.compile(r"\w+|[^\w\s]")
Words = tuple[str, ...]
_CUT = (("test", 8), ("training", 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One test item and what it shares.

    Args:
        task_id: of the test item.
        share: of its n-grams, how many stand anywhere in the training source: 0 to 1.
        training_id: the training item that has most of them.
        same: its question is that of a training item, word for word.
    """

    task_id: str
    share: float
    training_id: str
    same: bool


def overlaps(training: Iterable[Task], test: Sequence[Task], n: int) -> list[Overlap]:
    """The test items that share an n-gram with a training item, the largest share first.

    Args:
        n: words (or signs) of an n-gram. A question of fewer words is one n-gram as a whole, and is found only where it is
            a whole question.
    """
    questions = {task.task_id: _words(task.prompt) for task in test}
    asked = {task_id: _ngrams(words, n) for task_id, words in questions.items()}
    wanted = frozenset[Words]().union(*asked.values())
    holders: defaultdict[Words, list[str]] = defaultdict(list)
    wholes = set[Words]()
    for task in training:
        words = _words(task.prompt)
        wholes.add(words)
        for gram in _ngrams(words, n) & wanted:
            holders[gram].append(task.task_id)
    shared = [
        _overlap(task_id, grams, holders, questions[task_id] in wholes)
        for task_id, grams in asked.items()
        if not grams.isdisjoint(holders)
    ]
    return sorted(shared, key=lambda one: (-one.share, one.task_id))


def _overlap(
    task_id: str, grams: frozenset[Words], holders: Mapping[Words, Sequence[str]], same: bool
) -> Overlap:
    hits = [gram for gram in grams if gram in holders]
    items = Counter(item for gram in hits for item in holders[gram])
    most = min(items, key=lambda item: (-items[item], item))
    return Overlap(task_id=task_id, share=len(hits) / len(grams), training_id=most, same=same)


def _words(text: str) -> Words:
    """Words and signs in small letters: `$x+1$` is five of them, however it is spaced."""
    return tuple(_WORD.findall(text.lower()))


def _ngrams(words: Words, n: int) -> frozenset[Words]:
    return frozenset(words[start : start + n] for start in range(max(1, len(words) - n + 1)))


def show_overlap(
    training: str, test: str, overrides: Sequence[str], *, n: int, limit: int, console: Console
) -> None:
    """Prints how many test items share an n-gram with the training source, and the first of them by their ids.

    Questions are not printed: some benchmarks ask that theirs never stand in plain text.

    Args:
        training, test: environments, as `aipo env` takes them: the splits that are trained on, and those evaluated.

    Raises:
        ConfigError: no such environment, or n is no number of words.
    """
    if n < 1:
        raise ConfigError(f"--n: got {n}, allowed 1 or more words")
    trained, evaluated = _tasks(training, overrides, trained=True), _tasks(test, overrides, trained=False)
    found = overlaps(trained, evaluated, n)
    rows = [
        (one.task_id, f"{one.share:.2f}", one.training_id, "same" if one.same else "")
        for one in found[:limit]
    ]
    if rows:
        console.print(
            line_table(("test", "share", "training", "question"), rows, width=console.width, cut=_CUT)
        )
    copies = sum(one.same for one in found)
    says = f"{len(found)} of {len(evaluated)} test items share {n} words in a row with {len(trained)} training items; {copies} are the same question"
    print_line(console, says)
    result = {
        "n": n,
        "training": len(trained),
        "test": len(evaluated),
        "overlapping": len(found),
        "same": copies,
    }
    print_result(console, {**result, "items": [asdict(one) for one in found]})


def _tasks(name: str, overrides: Sequence[str], *, trained: bool) -> list[Task]:
    experiment = environment(name, overrides)
    splits: Iterable[str] = experiment.mixture if trained else experiment.evaluation.splits
    with users_code(f"tasks of {experiment.env_name}"):
        return [task for split in splits for task in check_tasks(experiment.env, split, experiment.env_name)]
