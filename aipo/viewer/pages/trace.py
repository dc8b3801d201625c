"""The page of a trace: its context with consults, token view, graph and timeline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from markupsafe import Markup

from aipo.errors import TraceError
from aipo.render.graph_svg import graph_svg
from aipo.render.spans import text_spans
from aipo.render.trace_html import context_html, legend_html
from aipo.trace import Role, Trace
from aipo.trace.arrow import Stored
from aipo.trace.filters import Filter
from aipo.trace.index import Summary
from aipo.trace.token_stats import TokenStats
from aipo.util.text import duration, visible
from aipo.viewer.data.library import RunView
from aipo.viewer.data.passages import agents_of
from aipo.viewer.data.tokens import token_data
from aipo.viewer.links import Links, json_block
from aipo.viewer.pages.timeline import timeline_svg
from aipo.viewer.pages.visits import Station, path_through, stations
from aipo.viewer.responses import render

SHOWN = 64
"""Rollouts of the group that the page links to."""
Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sibling:
    """A rollout of the same group."""

    summary: Summary
    href: str
    here: bool

    @property
    def verdict(self) -> str:
        reward = self.summary.reward
        return "none" if reward is None else "good" if reward > 0 else "bad"


@dataclass(frozen=True, slots=True)
class CompareLink:
    """A link to the comparison with another trace."""

    name: str
    href: str


def trace_page(run: RunView, trace_id: str, links: Links) -> str:
    """The page as HTML.

    Raises:
        TraceError: there is no such trace, or its file cannot be read.
    """
    stored = run.index.stored(trace_id)
    trace, agents = stored.trace, agents_of(run)
    texts = stored.texts or _texts(run, stored)
    group = run.index.traces(Filter(group=trace.group_id), limit=SHOWN)
    before, after = run.index.neighbours(trace_id)
    token_stats, problem = _token_stats(run, trace)
    spans = text_spans(trace, texts, agents)
    exact = "".join(piece.text for piece in spans)
    tokens = token_data(trace, spans, run.token_texts, token_stats)
    return render(
        "trace.html.j2",
        links,
        run=run,
        trace=trace,
        kind=trace.kind,
        facts=facts(trace),
        details=details(trace),
        question=trace.task.get("prompt"),
        answer=trace.task.get("answer"),
        before=before and links.trace(run.name, before),
        after=after and links.trace(run.name, after),
        parent=_parent(run, trace, links),
        siblings=[_sibling(run, s, links, trace_id) for s in group],
        comparisons=comparisons(run, trace, group, links),
        context=Markup(context_html(trace, texts, agents, anchors=True)),
        legend=Markup(legend_html([trace], agents)),
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
        ("advantage", "none" if trace.advantage is None else f"{trace.advantage:+.4g}"),
        ("ended by", str(trace.stop_reason)),
        ("step", str(trace.step)),
        ("policy version", " to ".join(map(str, dict.fromkeys([*versions[:1], *versions[-1:]]))) or "not recorded"),
        ("tokens", f"{sum(count for _, count in counts)} ({by_role})"),
        ("took", duration(trace.seconds)),
    ]  # fmt: skip


def details(trace: Trace) -> Mapping[str, Facts]:
    """Identity, sampling, task and fingerprints, under headings."""
    began = datetime.fromtimestamp(trace.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    ids = {"trace": trace.trace_id, "group": trace.group_id, "run": trace.run_id, "task": trace.task_id}
    if trace.parent_id is not None:
        fork = "" if trace.fork_token is None else f", from token {trace.fork_token}"
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


def comparisons(run: RunView, trace: Trace, group: Sequence[Summary], links: Links) -> list[CompareLink]:
    """Its parent, and the rollout of its group whose reward differs most."""
    pairs: list[CompareLink] = []
    if trace.parent_id is not None and run.index.summary(trace.parent_id) is not None:
        href = links.compare(run.name, trace.parent_id, run.name, trace.trace_id)
        pairs.append(CompareLink("its parent", href))
    rest = [s for s in group if s.trace_id != trace.trace_id]
    # On a static site every pair would be a page of its own.
    if links.live and rest:
        far = max(rest, key=lambda s: abs((s.reward or 0.0) - (trace.reward or 0.0)))
        href = links.compare(run.name, trace.trace_id, run.name, far.trace_id)
        reward = "no reward" if far.reward is None else f"reward {far.reward:g}"
        pairs.append(CompareLink(f"rollout {far.index}, {reward}", href))
    return pairs


def _reward(trace: Trace) -> str:
    if trace.reward is None:
        return "never scored"
    parts = " · ".join(f"{name} {value:g}" for name, value in trace.reward_parts.items())
    return f"{trace.reward:g} ({parts})" if parts else f"{trace.reward:g}"


def _plain(values: Mapping[str, Any]) -> Facts:
    return [(k, v if isinstance(v, str) else json.dumps(v, default=str)) for k, v in values.items()]


def _parent(run: RunView, trace: Trace, links: Links) -> str | None:
    """Link to the trace that this one replays, if it is in this run."""
    if trace.parent_id is None or run.index.summary(trace.parent_id) is None:
        return None
    return links.trace(run.name, trace.parent_id)


def _sibling(run: RunView, summary: Summary, links: Links, trace_id: str) -> Sibling:
    return Sibling(summary, links.trace(run.name, summary.trace_id), summary.trace_id == trace_id)


def _token_stats(run: RunView, trace: Trace) -> tuple[Sequence[TokenStats], str | None]:
    """The trace's token stats, or the error: a file that cannot be read must not hide the trace."""
    try:
        return run.token_stats(trace.trace_id, trace.step), None
    except TraceError as error:
        return [], str(error)


def _texts(run: RunView, stored: Stored) -> list[str] | None:
    """Texts that the run's tokenizer gives, for a trace that was stored without."""
    texts = [run.token_texts(s.token_ids.tolist()) for s in stored.trace.segments]
    joined = ["".join(parts) for parts in texts if parts is not None]
    return joined if len(joined) == len(texts) else None


def graph_panel(trace: Trace, drawing: Mapping[str, Any] | None, agents: Sequence[str] = ()) -> Markup:
    """The panel as HTML; needs panel.css, and panel.js to show which bars belong to which node.

    Args:
        drawing: as `graph.json` has it. Without one, or with one that makes no sense, there is only the
            timeline; visits of nodes that are not in it (somebody edited the graph) are listed.
        agents: fixes the agents' colours, as in `aipo.render.display`.
    """
    stops = stations(trace)
    picture = _picture(stops, drawing) if drawing is not None and _sound(drawing) else ""
    times = timeline_svg(trace, stops, agents) or '<p class="soft">No node was visited.</p>'
    return Markup(
        f'<div class="panel{"" if picture else " alone"}" data-panel>{picture}'
        f'<figure class="panel-times"><figcaption>Timeline</figcaption>{times}</figure></div>'
    )


def _picture(stops: Sequence[Station], drawing: Mapping[str, Any]) -> str:
    lit, strangers = path_through(stops, drawing)
    return (
        '<figure class="panel-graph"><figcaption>Graph</figcaption>'
        f'<div class="panel-scroll" tabindex="0" role="region" aria-label="graph, scrolls sideways">'
        f"{graph_svg(drawing, lit)}</div>{_strangers(strangers)}</figure>"
    )


def _strangers(strangers: Sequence[Station]) -> str:
    if not strangers:
        return ""
    paths = {s.visit.path: s.href for s in reversed(strangers)}
    items = "".join(
        f'<li><a href="{href}">{_shown(path)}</a></li>' if href else f"<li>{_shown(path)}</li>"
        for path, href in reversed(paths.items())
    )
    return f'<p class="soft">Visited, but not in this drawing:</p><ul class="panel-strangers">{items}</ul>'


def _shown(path: str) -> str:
    return escape(visible("calls outside of every node" if path == "?" else path))


def _sound(drawing: Mapping[str, Any]) -> bool:
    """Does a drawing, which is a file that anybody can edit, have the shape that it should?"""
    nodes, edges = drawing.get("nodes"), drawing.get("edges")
    if not isinstance(nodes, list) or not nodes or not isinstance(edges, list):
        return False
    named = all(isinstance(node, str) for node in nodes)
    return named and all(
        isinstance(edge, dict)
        and isinstance(edge.get("from"), str)
        and isinstance(edge.get("to"), str)
        and "conditional" in edge
        for edge in edges
    )
