"""The page of a trace: its context with consults, token view, graph and timeline."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from aipo.errors import TraceError
from aipo.render.graph_svg import graph_svg
from aipo.render.spans import text_spans
from aipo.render.templating import fill, json_block
from aipo.render.trace_html import context_html, legend_html
from aipo.run import POLICIES
from aipo.trace import Role, Trace, histories
from aipo.trace.filters import Filter
from aipo.trace.index import Summary
from aipo.util.text import duration, visible
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.passages import agents_of, context_texts
from aipo.viewer.data.tokens import token_data
from aipo.viewer.links import Links
from aipo.viewer.pages.timeline import timeline_svg
from aipo.viewer.pages.visits import from_zero, path_through, stations
from aipo.viewer.responses import render

SHOWN = 64
"""Rollouts of the group that the page links to."""
Facts = list[tuple[str, str]]


def trace_page(run: RunView, trace_id: str, links: Links, library: RunLibrary | None = None) -> str:
    """The page as HTML.

    Args:
        library: where the policies that discussed with this one are, to be linked to.

    Raises:
        TraceError: there is no such trace, or its file cannot be read.
    """
    stored = run.index.stored(trace_id)
    trace, agents = stored.trace, agents_of(run)
    texts = context_texts(run, stored)
    summary, group = run.index.summary(trace_id), run.index.traces(Filter(group=trace.group_id), limit=SHOWN)
    before, after = run.index.neighbours(trace_id)
    parent = _parent(run, trace)
    try:
        token_stats, pushes, problem = run.token_stats(trace_id, trace.step), run.pushes(trace.step), None
    except TraceError as error:  # a file that cannot be read must not hide the trace
        token_stats, pushes, problem = [], {}, str(error)
    spans = text_spans(trace, texts, agents)
    exact = "".join(piece.text for piece in spans)
    tokens = token_data(trace, spans, run.token_texts(trace), token_stats, pushes)
    return render(
        "trace.html.j2",
        links,
        run=run,
        trace=trace,
        facts=facts(trace),
        details=details(trace),
        before=before and links.trace(run.name, before),
        after=after and links.trace(run.name, after),
        parent=parent and links.trace(run.name, parent),
        peers={name: links.trace(*place) for name, place in _peers(run, trace, library).items()},
        flawed=summary is not None and summary.flawed,
        siblings=group,
        comparisons=comparisons(run, trace, group, links),
        task=_task(run, trace, links),
        context=context_html(trace, texts, agents, anchors=True),
        legend=legend_html([trace], agents),
        raw=exact,
        problem=problem,
        panel=graph_panel(trace, run.drawing(), agents),
        data=json_block("tokens-data", {**tokens, "exact": None if visible(exact) == exact else exact}),
        katex=links.static("katex.min.js"),
    )


def facts(trace: Trace) -> Facts:
    """Reward, ending, step, tokens and duration, by name."""
    counts = [(role, trace.count(role)) for role in Role]
    by_role = " · ".join(f"{role} {count}" for role, count in counts if count)
    versions = sorted({s.policy_version for s in trace.segments if s.policy_version is not None})
    return [
        ("reward", _reward(trace)),
        ("advantage", _advantage(trace)),
        ("ended by", str(trace.stop_reason)),
        ("step", str(trace.step)),
        ("policy version", " to ".join(map(str, dict.fromkeys([*versions[:1], *versions[-1:]]))) or "not recorded"),
        ("tokens", f"{sum(count for _, count in counts)} ({by_role})"),
        ("took", duration(trace.seconds)),
        *_chat_calls(trace),
    ]  # fmt: skip


def _chat_calls(trace: Trace) -> Facts:
    """How the calls of a chat model stood to what was sampled before them; nothing where there was no such call."""
    notes: Mapping[str, float] = trace.sampling.get("notes", {})
    names = ("began", "clean", "realigned", "forked")
    counts = [f"{notes[f'chat_{name}']:g} {name}" for name in names if notes.get(f"chat_{name}")]
    differing = "; ".join(trace.sampling.get("chat_forks", ()))
    several = len(histories(trace.segments))
    told = [*counts, *([f"{several} histories"] if several > 1 else [])]
    return [("calls", " · ".join(told) + (f" ({differing})" if differing else ""))] if counts else []


def details(trace: Trace) -> Mapping[str, Facts]:
    """Identity, sampling, task and fingerprints, under headings."""
    began = datetime.fromtimestamp(trace.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    ids = {"trace": trace.trace_id, "group": trace.group_id, "run": trace.run_id, "task": trace.task_id}
    if trace.parent_id is not None:
        how = "forked behind" if trace.forked else "from token"
        fork = "" if trace.fork_token is None else f", {how} {trace.fork_token}{' tokens' * trace.forked}"
        ids["parent"] = trace.parent_id + fork
    sampling: dict[str, Any] = {"seed": trace.seed, **trace.sampling}
    if trace.forbidden_ids:
        sampling["forbidden ids"] = " ".join(map(str, trace.forbidden_ids))
    task = {k: v for k, v in trace.task.items() if k not in ("prompt", "answer", "task_id")}
    return {
        "Identity": _plain(
            {**ids, "index in its group": trace.index, "policy": trace.policy, "began": began}
        ),
        "Sampling": _plain(sampling),
        "Task": _plain(task),
        "Fingerprints": _plain(trace.fingerprints),
    }


def comparisons(run: RunView, trace: Trace, group: Sequence[Summary], links: Links) -> Facts:
    """Links to comparisons with its parent, and with the rollout of its group whose reward differs most."""
    pairs: Facts = []
    if parent := _parent(run, trace):
        pairs.append(("its parent", links.compare(run.name, parent, run.name, trace.trace_id)))
    rest = [s for s in group if s.trace_id != trace.trace_id]
    # On a static site every pair would be a page of its own.
    if links.live and rest:
        far = max(rest, key=lambda s: abs((s.reward or 0.0) - (trace.reward or 0.0)))
        reward = "no reward" if far.reward is None else f"reward {far.reward:g}"
        href = links.compare(run.name, trace.trace_id, run.name, far.trace_id)
        pairs.append((f"rollout {far.index}, {reward}", href))
    return pairs


def _peers(run: RunView, trace: Trace, library: RunLibrary | None) -> dict[str, tuple[str, str]]:
    """Run and trace of the other policies that learned together with this one, in the same rollout."""
    if library is None or run.evaluation:
        return {}
    folder, rollout = run.folder.resolve().parent, trace.trace_id.removesuffix(f"/{trace.policy}")
    if folder.name != POLICIES or rollout == trace.trace_id:
        return {}
    beside = [one for one in library.runs() if one.folder.resolve().parent == folder and not one.evaluation]
    others = {one.folder.name: one for one in beside if one.name != run.name}
    return {
        name: (one.name, trace_id)
        for name, one in others.items()
        if one.index.summary(trace_id := f"{rollout}/{name}")
    }


def _task(run: RunView, trace: Trace, links: Links) -> str | None:
    """The page of its task in an evaluation."""
    if run.evaluation is None:
        return None
    sample = next((sample for sample in run.samples() if sample.trace_id == trace.trace_id), None)
    split = str(trace.task.get("split", "")) if sample is None else sample.split
    return links.task(run.name, split, trace.task_id)


def _parent(run: RunView, trace: Trace) -> str | None:
    """The trace that this one replays or was forked from, if it is in this run."""
    return trace.parent_id if trace.parent_id and run.index.summary(trace.parent_id) else None


def _advantage(trace: Trace) -> str:
    """The trace's, and those that hard attribution gave to segments that it shares."""
    shared = [s.advantage for s in trace.segments if s.advantage is not None]
    means = ", ".join(signed(value) for value in dict.fromkeys(shared))
    own = "none" if trace.advantage is None else signed(trace.advantage)
    return f"{own} (shared tokens: {means})" if shared else own


def signed(value: float) -> str:
    return f"{value:+.4g}" if value else "0"


def _reward(trace: Trace) -> str:
    if trace.reward is None:
        return "never scored"
    parts = " · ".join(f"{name} {value:g}" for name, value in trace.reward_parts.items())
    return f"{trace.reward:g} ({parts})" if parts else f"{trace.reward:g}"


def _plain(values: Mapping[str, Any]) -> Facts:
    return [(k, v if isinstance(v, str) else json.dumps(v, default=str)) for k, v in values.items()]


def graph_panel(trace: Trace, drawing: Mapping[str, Any] | None, agents: Sequence[str] = ()) -> Markup:
    """The panel as HTML; needs panel.css, and panel.js to show which bars belong to which node.

    Args:
        drawing: as `graph.json` has it. Without one, or with one that makes no sense, there is only the
            timeline; visits of nodes that are not in it (somebody edited the graph) are listed.
        agents: fixes the agents' colours, as in `aipo.render.display`.
    """
    trace = from_zero(trace)
    stops = stations(trace)
    picture, outside = None, dict[str, str | None]()
    if drawing is not None and _is_sound(drawing):
        lit, strangers = path_through(stops, drawing)
        picture = Markup(graph_svg(drawing, lit))
        for station in strangers:
            outside.setdefault(station.visit.path, station.href)
    times = Markup(timeline_svg(trace, stops, agents))
    return fill("aipo.viewer", "panel.html.j2", picture=picture, outside=outside, times=times)


def _is_sound(drawing: Mapping[str, Any]) -> bool:
    """Does a drawing, which is a file that anybody can edit, have the shape that it should?"""
    try:
        ends = [edge[end] for edge in drawing["edges"] for end in ("from", "to") if "conditional" in edge]
        sound = bool(drawing["nodes"]) and len(ends) == 2 * len(drawing["edges"])
        return sound and all(isinstance(path, str) for path in [*drawing["nodes"], *ends])
    except (KeyError, TypeError):
        return False
