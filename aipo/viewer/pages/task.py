"""The page of one task of an evaluation: its samples, each with its answer, reward, reason and trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aipo.compare.sections import SETTINGS
from aipo.evaluate.samples import SampleResult
from aipo.viewer.data.evaluation import TaskKey, TaskSamples, questions, view_of
from aipo.viewer.data.library import RunView
from aipo.viewer.links import Links, slug
from aipo.viewer.pages.task_list import filling
from aipo.viewer.responses import render


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSection:
    """The samples under one setting.

    Args:
        label: what the setting is called.
        answers: that were given, the most frequent first, with how often and how many of them are right.
        unknown: how many samples of an older evaluation were not kept.
    """

    label: str
    result: TaskSamples
    answers: Sequence[tuple[str, int, int]]
    unknown: int


def find_task(run: RunView, split: str, task: str) -> TaskKey | None:
    """The task whose slugs these are, as of now; None if there is none."""
    return next(
        (key for key in view_of(run).tasks if (slug(key.split), slug(key.task_id)) == (split, task)), None
    )


def task_page(run: RunView, key: TaskKey, links: Links) -> str:
    """The page as HTML.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: another file of the evaluation cannot.
    """
    view = view_of(run)
    results, keys = view.tasks[key], list(view.tasks)
    place = keys.index(key)
    asked = questions(run, results.values())
    question = next((one for one in asked if one.question is not None), asked[0])
    return render(
        "task.html.j2",
        links,
        run=run,
        key=key,
        question=question,
        labels=next(iter(results.values())).score.labels,
        sections=[_section(setting, results[setting]) for setting in SETTINGS if setting in results],
        filling=filling,
        groups=_groups(run, results),
        before=keys[place - 1] if place else None,
        after=keys[place + 1] if place + 1 < len(keys) else None,
    )


def _section(setting: str, result: TaskSamples) -> SampleSection:
    answers: dict[str, list[SampleResult]] = {}
    for sample in result.samples:
        if sample.answer is not None and sample.correct is not None:
            answers.setdefault(sample.answer, []).append(sample)
    counted = [(answer, len(given), sum(one.passed for one in given)) for answer, given in answers.items()]
    return SampleSection(
        label=SETTINGS[setting],
        result=result,
        answers=sorted(counted, key=lambda one: -one[1]),
        unknown=result.score.verdicts + result.score.failed - len(result.samples),
    )


def _groups(run: RunView, results: Mapping[str, TaskSamples]) -> dict[str, str]:
    """By setting, the group of its traces, where several were kept."""
    kept = {name: [s.trace_id for s in result.samples if s.kept] for name, result in results.items()}
    groups: dict[str, str] = {}
    for name, trace_ids in kept.items():
        if len(trace_ids) > 1 and (summary := run.index.summary(trace_ids[0])) is not None:
            groups[SETTINGS[name]] = summary.group_id
    return groups
