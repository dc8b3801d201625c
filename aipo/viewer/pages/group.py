"""The page of a group: the rollouts of one task side by side, and where they part."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from aipo.errors import TraceError, one_of
from aipo.render.spans import colour_of
from aipo.render.trace_html import legend_html
from aipo.trace import Consult, Role, Trace
from aipo.trace.arrow import Stored
from aipo.viewer.data.passages import Passage, after_prompt, agents_of, passages
from aipo.viewer.data.run import RunView
from aipo.viewer.data.run_summary import section
from aipo.viewer.links import Links, json_block
from aipo.viewer.pages.advantages import Rewards, as_credited, explanation
from aipo.viewer.pages.branches import Branches, Leaf, branches, branches_svg
from aipo.viewer.responses import render

SHOWN = 64
_SIGNS = {"\n": "↵", "\t": "⇥", " ": "␣"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of text in one colour.

    Args:
        colour, text: what is shown.
        at: the tokens after the prompt that begin it and at which somebody leaves; for the page's script.
        sign: how to show a token that is only space.
        common: all rollouts have it.
    """

    colour: str
    text: str
    at: str = ""
    sign: str = ""
    common: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCard:
    """One rollout of the group."""

    trace: Trace
    kind: str
    href: str
    compare: str | None
    asked: Sequence[tuple[Consult, str]]
    prompt: Sequence[Passage]
    stretches: Sequence[Stretch]
    tokens: int
    leaves: int | None

    @property
    def verdict(self) -> str:
        reward = self.trace.reward
        return "none" if reward is None else "good" if reward > 0 else "bad"


def group_page(run: RunView, group_id: str, links: Links) -> str:
    """The page as HTML.

    Raises:
        TraceError: there is no such group, or a file of traces cannot be read.
    """
    summaries = run.index.of_groups([group_id])[group_id]
    if not summaries:
        raise TraceError(one_of("group", group_id, "a group of this run", run.name))
    stored = [run.index.stored(summary.trace_id) for summary in summaries[:SHOWN]]
    agents = agents_of(run)
    contexts = [passages(run, one, agents) for one in stored]
    completions = [[i for p in context[after_prompt(context) :] for i in p.ids] for context in contexts]
    branching = branches(completions)
    cards = [_card(run, links, n, stored, contexts[n], branching, agents) for n in range(len(stored))]
    traces = [one.trace for one in stored]
    credited = [as_credited(summary) for summary in summaries]
    before, after = _neighbours(run, [summary.trace_id for summary in summaries])
    return render(
        "group.html.j2",
        links,
        run=run,
        group=summaries[0],
        cards=cards,
        left_out=len(summaries) - len(stored),
        rewards=Rewards.of(credited),
        explanation=explanation(credited, section(run.config(), "method")),
        scale=max([1e-9, *(abs(t.advantage) for t in traces if t.advantage is not None)]),
        prompts=_prompts(cards),
        tree=Markup(
            branches_svg([_leaf(card, context) for card, context in zip(cards, contexts, strict=True)])
        ),
        data=json_block("branches", {"majority": branching.majority, "shared": branching.shared}),
        legend=Markup(legend_html(traces, agents)),
        branching=branching,
        before=before,
        after=after,
    )


def _card(
    run: RunView,
    links: Links,
    number: int,
    stored: Sequence[Stored],
    context: Sequence[Passage],
    branching: Branches,
    agents: Sequence[str],
) -> RolloutCard:
    trace, majority = stored[number].trace, stored[branching.majority].trace
    first = after_prompt(context)
    # On a static site every pair would be a page of its own.
    linked = links.live and number != branching.majority
    return RolloutCard(
        trace=trace,
        kind=trace.kind,
        href=links.trace(run.name, trace.trace_id),
        compare=links.compare(run.name, majority.trace_id, run.name, trace.trace_id) if linked else None,
        asked=[
            (c, colour_of(Role.AGENT, c.agent, agents) if c.agent in agents else "env")
            for c in trace.consults
        ],
        prompt=context[:first],
        stretches=stretches(context[first:], branching.cuts(number), branching.common),
        tokens=branching.shared[number][number],
        leaves=branching.leaves(number, branching.majority),
    )


def stretches(completion: Sequence[Passage], cuts: set[int], common: int) -> list[Stretch]:
    """The text of a completion, cut so that each token of `cuts` is a piece and the common start ends at a cut."""
    pieces: list[Stretch] = []
    base = 0
    for passage in completion:
        size = len(passage.ids)
        inside = {at - base for at in cuts if base <= at < base + size}
        if passage.parts is None:
            at = " ".join(str(base + n) for n in sorted(inside))
            pieces.append(Stretch(passage.colour, passage.text, at, common=base + size <= common))
        else:
            edges = {0, size, min(max(common - base, 0), size), *inside, *(n + 1 for n in inside)}
            for start, end in pairwise(sorted(edges)):
                text, at = passage.cut(start, end), str(base + start) if start in inside else ""
                sign = _SIGNS.get(text[:1], "") if at and not text.strip() else ""
                pieces.append(Stretch(passage.colour, text, at, sign, base + end <= common))
        base += size
    return pieces


def _leaf(card: RolloutCard, context: Sequence[Passage]) -> Leaf:
    completion = context[after_prompt(context) :]
    reward = "no reward" if card.trace.reward is None else f"reward {card.trace.reward:g}"
    return Leaf(
        tokens=[i for p in completion for i in p.ids],
        colours=[(len(p.ids), p.colour) for p in completion],
        label=f"#{card.trace.index} {card.kind}, {reward}",
        href=card.href,
        verdict=card.verdict,
    )


def _prompts(cards: Sequence[RolloutCard]) -> list[tuple[str, list[str]]]:
    """Each prompt once, with the kinds of rollouts that had it."""
    kinds: dict[str, list[str]] = {}
    for card in cards:
        text = "".join(p.text for p in card.prompt if p.role is Role.PROMPT)
        kinds.setdefault(text, [])
        if card.kind not in kinds[text]:
            kinds[text].append(card.kind)
    return list(kinds.items())


def _neighbours(run: RunView, trace_ids: Sequence[str]) -> tuple[str | None, str | None]:
    """The groups before and after, by step."""
    before = run.index.neighbours(trace_ids[0])[0]
    after = run.index.neighbours(trace_ids[-1])[1]
    summaries = (run.index.summary(name) if name else None for name in (before, after))
    first, last = (summary.group_id if summary else None for summary in summaries)
    return first, last
