"""The tasks of an evaluation as lines with their samples as marks: filtered, and those with wrong answers first."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlencode

from aipo.errors import one_of
from aipo.evaluate.samples import SampleResult
from aipo.util.text import cut
from aipo.viewer.data.evaluation import EvaluationView, TaskKey, TaskSamples, questions
from aipo.viewer.data.library import RunView
from aipo.viewer.links import Links
from aipo.viewer.pages.run_table import TablePage

SHOW = {
    "all": "all tasks",
    "wrong": "with a wrong answer",
    "never": "never right",
    "right": "always right",
    "failed": "without a verdict",
}
"""Which tasks are listed, by the word in the address."""
_PER_PAGE, _STATIC = 100, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks are listed; empty = any. `page` counts from 1."""

    split: str = ""
    setting: str = ""
    label: str = ""
    show: str = "all"
    task: str = ""
    page: int = 1
    view: str = "tasks"

    def link(self, **changed: str | int) -> str:
        """Relative address of the list with other values, and by default its first page."""
        new = replace(self, **{"page": 1, **changed})
        names = ("split", "setting", "label", "show", "task", "page")
        usual = TaskQuery()
        given = {name: getattr(new, name) for name in names if getattr(new, name) != getattr(usual, name)}
        return f"?{urlencode(given)}#tasks"

    def page_link(self, run: RunView, links: Links) -> Callable[[int], str]:
        """A function from the number of a page to its address."""
        return (lambda page: self.link(page=page)) if links.live else (lambda page: links.run(run.name, page))

    def takes(self, key: TaskKey, settings: Mapping[str, TaskSamples]) -> bool:
        """Is the task listed?"""
        results = [result for setting, result in settings.items() if self.setting in ("", setting)]
        labels = {f"{name}: {value}" for result in results for name, value in result.score.labels.items()}
        rules = {
            "all": any,
            "wrong": lambda some: any(result.has_wrong for result in some),
            "never": lambda some: any(result.share == 0 for result in some),
            "right": lambda some: all(result.share == 1 for result in some),
            "failed": lambda some: any(result.score.failed for result in some),
        }
        return (
            bool(results)
            and self.split in ("", key.split)
            and (not self.label or self.label in labels)
            and self.task.lower() in key.task_id.lower()
            and bool(rules[self.show](results))
        )


def read_query(params: Mapping[str, str], view: EvaluationView) -> tuple[TaskQuery, list[str]]:
    """The query string, and a sentence for each value that makes no sense, which is ignored."""
    labels = [f"{name}: {value}" for name, values in view.labels.items() for value in values]
    allowed = {"split": view.splits, "setting": view.settings, "label": labels, "show": [*SHOW]}
    problems: list[str] = []
    values: dict[str, str] = {"task": params.get("task", "")[:500]}
    for name, choices in allowed.items():
        if (value := params.get(name, "")) in ("", *choices):
            values[name] = value
        else:
            problems.append(one_of(name, cut(value, 60), choices, "the address of this page"))
    page = params.get("page", "1")
    number = int(page) if page.isdecimal() and len(page) < 9 and int(page) else 1
    values["show"] = values.get("show") or "all"
    return TaskQuery(**values, page=number), problems


class SampleMark(NamedTuple):
    """One sample of a strip; `href` leads to its trace, if that was kept."""

    href: str | None
    css: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """A task of the list.

    Args:
        cells: its result under each setting of the list, None where it has none, with the marks of its samples.
        wrong: wrong answers, the most frequent first, with how often each was given; where nobody recorded answers, the reason
            of the first wrong one.
    """

    key: TaskKey
    href: str
    question: str
    answer: str | None
    labels: str
    cells: Sequence[tuple[TaskSamples | None, Sequence[SampleMark]]]
    wrong: Sequence[str]


def listing(run: RunView, view: EvaluationView, query: TaskQuery, links: Links) -> TablePage:
    """One page of the tasks that match, those with the smallest share of right answers first."""
    settings = [query.setting] if query.setting else view.settings
    found = [(key, results) for key, results in view.tasks.items() if query.takes(key, results)]
    found.sort(
        key=lambda item: _worst(item[1], settings)
    )  # stable: the order of the data set decides among equals
    per_page = _PER_PAGE if links.live else _STATIC
    first = per_page * (query.page - 1)
    shown = found[first : first + per_page]
    asked = questions(run, (_best_kept(results) for _, results in shown))
    rows = [
        TaskLine(
            key=key,
            href=links.task(run.name, *key),
            question=cut(" ".join((question.question or "")[:4000].split()), 200),
            answer=question.answer,
            labels=", ".join(f"{name} {value}" for name, value in _labels(results).items()),
            cells=[(results.get(setting), marks(run, results.get(setting), links)) for setting in settings],
            wrong=_wrong(results, settings),
        )
        for (key, results), question in zip(shown, asked, strict=True)
    ]
    return TablePage(rows=rows, matching=len(found), first=first + 1, per_page=per_page)


def _worst(results: Mapping[str, TaskSamples], settings: Sequence[str]) -> float:
    shares = [results[setting].share for setting in settings if setting in results]
    known = [share for share in shares if share is not None]
    return min(known, default=-1.0)


def _best_kept(results: Mapping[str, TaskSamples]) -> TaskSamples:
    """A setting of which a trace was kept, if there is one."""
    return max(results.values(), key=lambda result: any(sample.kept for sample in result.samples))


def _labels(results: Mapping[str, TaskSamples]) -> Mapping[str, str]:
    return next(iter(results.values())).score.labels


def _wrong(results: Mapping[str, TaskSamples], settings: Sequence[str]) -> list[str]:
    samples = [s for name in settings if name in results for s in results[name].samples]
    wrong = [sample for sample in samples if sample.correct is not None and not sample.passed]
    answers = Counter(cut(sample.answer, 60) for sample in wrong if sample.answer is not None)
    if answers:
        return [f"{answer} ×{times}" if times > 1 else answer for answer, times in answers.most_common(3)]
    return [cut(reason, 120) for reason in (sample.reason for sample in wrong) if reason is not None][:1]


def marks(run: RunView, result: TaskSamples | None, links: Links) -> list[SampleMark]:
    """The samples of one task under one setting."""
    return [
        SampleMark(
            links.trace(run.name, sample.trace_id) if sample.kept else None,
            f"mark {sample.setting} {filling(sample)}",
            _title(sample),
        )
        for sample in (() if result is None else result.samples)
    ]


def filling(sample: SampleResult) -> str:
    """CSS class of a verdict: right, partly right, wrong, or none."""
    if sample.correct is None:
        return "none"
    return "q4" if sample.passed else f"q{round(4 * max(0.0, sample.correct))}"


def _title(sample: SampleResult) -> str:
    verdict = "no verdict" if sample.correct is None else "right" if sample.passed else "wrong"
    said = (sample.answer, sample.error or sample.reason)
    return " · ".join([f"{sample.index}: {verdict}", *(cut(one, 160) for one in said if one)])
