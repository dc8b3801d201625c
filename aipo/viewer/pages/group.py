"""The page of a group: the rollouts of one task side by side, and where they part."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from aipo.errors import TraceError, one_of
from aipo.render.spans import colour_of
from aipo.render.trace_html import legend_html
from aipo.trace import Consult, Role, Segment, Trace
from aipo.trace.index import Summary
from aipo.viewer.data.passages import Passage, after_prompt, agents_of, passages
from aipo.viewer.data.run import RunView
from aipo.viewer.data.run_summary import section
from aipo.viewer.links import Links
from aipo.viewer.pages.branches import Leaf, branches_svg, leaves_at, majority
from aipo.viewer.responses import render, verdict

SHOWN = 64


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of text in one colour.

    Args:
        colour, text: what is shown.
        leaves: it begins with the token at which the rollout leaves the majority.
        common: all rollouts have it.
    """

    colour: str
    text: str
    leaves: bool = False
    common: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCard:
    """One rollout of the group.

    Args:
        asked: each consult, with the colour of its agent.
        leaf: its tokens after the prompt, for the tree.
        stretches: their text.
        leaves: the first of them at which it leaves the majority; None if it never does.
    """

    trace: Trace
    asked: Sequence[tuple[Consult, str]]
    prompt: str
    leaf: Leaf
    stretches: Sequence[Stretch]
    leaves: int | None


def group_page(run: RunView, group_id: str, links: Links) -> str:
    """The page as HTML.

    Raises:
        TraceError: there is no such group, or a file of traces cannot be read.
    """
    summaries = run.index.of_groups([group_id])[group_id]
    if not summaries:
        raise TraceError(one_of("group", group_id, "a group of this run", run.name))
    agents = agents_of(run)
    cards, most = _rollout_cards(run, summaries[:SHOWN], links, agents)
    traces = [card.trace for card in cards]
    rewards = [summary.reward for summary in summaries if summary.reward is not None]
    before, _ = run.index.neighbours(summaries[0].trace_id)
    _, after = run.index.neighbours(summaries[-1].trace_id)
    return render(
        "group.html.j2",
        links,
        run=run,
        group=summaries[0],
        cards=cards,
        majority=traces[most],
        left_out=len(summaries) - len(cards),
        mean=statistics.fmean(rewards) if rewards else None,
        std=statistics.stdev(rewards) if len(rewards) > 1 else None,
        explanation=explanation(summaries, section(run.config(), "method")),
        scale=max([1e-9, *(abs(t.advantage) for t in traces if t.advantage is not None)]),
        prompts=_prompts(cards),
        tree=Markup(branches_svg([card.leaf for card in cards])),
        legend=legend_html(traces, agents),
        before=_group_of(run, before),
        after=_group_of(run, after),
    )


def _rollout_cards(
    run: RunView, summaries: Sequence[Summary], links: Links, agents: Sequence[str]
) -> tuple[list[RolloutCard], int]:
    """The rollouts, compared with the one that goes with most, and the number of that one."""
    stored = [run.index.stored(summary.trace_id) for summary in summaries]
    contexts = [passages(run, one, agents) for one in stored]
    completions = [context[after_prompt(context) :] for context in contexts]
    forks = _forks([one.trace for one in stored], section(run.config(), "method"))
    leaf = [_leaf(run, one.trace, rest, links, forks) for one, rest in zip(stored, completions, strict=True)]
    most = majority([each.tokens for each in leaf])
    leaves = [leaves_at(each.tokens, leaf[most].tokens) for each in leaf]
    common = min(len(leaf[most].tokens) if at is None else at for at in leaves)
    cards = [
        RolloutCard(
            trace=one.trace,
            asked=[
                (c, colour_of(Role.AGENT, c.agent, agents) if c.agent in agents else "env")
                for c in one.trace.consults
            ],
            prompt="".join(p.text for p in contexts[n] if p.role is Role.PROMPT),
            leaf=leaf[n],
            stretches=stretches(completions[n], leaves[n], common),
            leaves=leaves[n],
        )
        for n, one in enumerate(stored)
    ]
    return cards, most


def stretches(completion: Sequence[Passage], leaves: int | None, common: int) -> list[Stretch]:
    """The text of a completion, cut around the token at which it leaves, and where the common start ends."""
    pieces: list[Stretch] = []
    base = 0
    for passage in completion:
        size = len(passage.ids)
        places = [common, *([] if leaves is None else [leaves, leaves + 1])] if passage.parts else []
        edges = sorted({0, size, *(at - base for at in places if base < at < base + size)})
        for start, end in pairwise(edges):
            here = leaves is not None and base + start <= leaves < base + end
            pieces.append(Stretch(passage.colour, passage.cut(start, end), here, base + end <= common))
        base += size
    return pieces


def explanation(summaries: Sequence[Summary], method: Mapping[str, Any]) -> list[str]:
    """Sentences about the advantages of one group.

    Args:
        summaries: all of the group.
        method: that part of the run's configuration.
    """
    if all(summary.advantage is None for summary in summaries):
        return ["No rollout of this group has an advantage: they were only looked at, or none was scored."]
    match method.get("credit", "a method that the configuration does not name"):
        case "group" | "branch" | "node":
            by_std = ", divided by the standard deviation" if method.get("scale_by_std") else ""
            sentences = [_baseline(summaries, method), f"Advantage: reward − mean{by_std}."]
            if (weight := method.get("negative_weight", 1.0)) != 1.0:
                sentences.append(f"Negative advantages count {weight} times.")
            if method.get("attribution") == "hard":
                sentences.append("Tokens that rollouts share have the mean of their advantages.")
            if method["credit"] == "node":
                sentences.append("Tokens of a node are measured against the rollouts that came to that node.")
        case "calibrated":
            by_std = ", divided by the standard deviation" if method.get("scale_by_std") else ""
            sentences = [
                "A reward is calibrated: it is compared with those of the other policies for the same task.",
                f"Advantage: calibrated reward − mean of them{by_std}.",
            ]
        case "reward":
            sentences = ["Advantage: the reward itself; no baseline is subtracted."]
        case other:
            return [f"Credit was given by {other}."]
    if not any(summary.advantage for summary in summaries):
        sentences.append("Every advantage is 0: nothing is learned from this group.")
    return sentences


def _baseline(summaries: Sequence[Summary], method: Mapping[str, Any]) -> str:
    """The mean of the rewards, or one for each mode."""
    rewards: dict[str, list[float]] = {}
    for summary in summaries:
        if summary.reward is not None:
            mode = "solo" if summary.kind == "suppressed" else summary.kind
            rewards.setdefault(mode, []).append(summary.reward)
    if method.get("per_mode_baseline") and len(rewards) > 1:
        means = (f"{statistics.fmean(values):.3g} for {mode} rollouts" for mode, values in rewards.items())
        return f"Baselines: {', '.join(means)}."
    everything = [reward for values in rewards.values() for reward in values]
    both = ", which assisted and solo rollouts share" if len(rewards) > 1 else ""
    return (
        f"Baseline: the mean of {len(everything)} rewards{both}: {statistics.fmean(everything or [0.0]):.3g}."
    )


def _forks(traces: Sequence[Trace], method: Mapping[str, Any]) -> dict[str, str]:
    """Why each rollout was forked where it was, by its id: the entropy there against that at its parent's beginning."""
    by_id = {trace.trace_id: trace for trace in traces}
    tokens = section(method, "branching").get("tokens", 20)
    notes: dict[str, str] = {}
    for trace in traces:
        if not trace.forked:
            continue
        note = f"forked behind {trace.fork_token} tokens"
        parent = by_id.get(trace.parent_id or "")
        turn = parent and next((s for s, at in _with_starts(parent) if at == trace.fork_token), None)
        first = next((s for s in trace.segments if s.role is Role.POLICY), None)
        if turn and first and turn.entropies is not None and first.entropies is not None:
            was, now = (float(s[:tokens].mean()) for s in (first.entropies, turn.entropies))
            note += f", nats per token at the beginning and here: H {was:.2g} → {now:.2g}"
        notes[trace.trace_id] = note
    return notes


def _with_starts(trace: Trace) -> Iterator[tuple[Segment, int]]:
    at = 0
    for piece in trace.segments:
        yield piece, at
        at += len(piece)


def _leaf(
    run: RunView, trace: Trace, completion: Sequence[Passage], links: Links, forks: Mapping[str, str]
) -> Leaf:
    reward = "no reward" if trace.reward is None else f"reward {trace.reward:g}"
    if forks and trace.advantage is not None:
        reward += f", A {trace.advantage:+.2f}"
    shared = len(trace.token_ids) - sum(len(passage.ids) for passage in completion)
    return Leaf(
        tokens=[i for passage in completion for i in passage.ids],
        colours=[(len(passage.ids), passage.colour) for passage in completion],
        label=f"#{trace.index} {'fork' if trace.forked else trace.kind}, {reward}",
        href=links.trace(run.name, trace.trace_id),
        verdict=verdict(trace.reward),
        fork=(trace.fork_token or 0) - shared if trace.forked else None,
        note=forks.get(trace.trace_id, ""),
    )


def _prompts(cards: Sequence[RolloutCard]) -> dict[str, list[str]]:
    """Each prompt once, with the kinds of rollouts that had it."""
    kinds: dict[str, dict[str, None]] = {}
    for card in cards:
        kinds.setdefault(card.prompt, {})[card.trace.kind] = None
    return {prompt: list(names) for prompt, names in kinds.items()}


def _group_of(run: RunView, trace_id: str | None) -> str | None:
    summary = run.index.summary(trace_id) if trace_id else None
    return summary.group_id if summary else None
