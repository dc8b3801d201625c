"""Peers discuss: Idea3 of ILR (2509.26306). Each shares its idea, analyses those of the others, and fuses them.

    prompt → share → switch ─ cooperation → analyse → fuse ─┐
                           └─ competition → analyse → fuse ─┴→ score

One run leaves one trace for each policy. What a peer hears is an agent's segment of its own trace, encoded by its own
tokenizer, and a consult, whose request is all that the peer wrote just before. Solo rollouts end with the shared idea.

The paper leaves much open; what is chosen here is ours, and said where it is done.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.errors import ConfigError, GraphError
from aipo.rollout import Prompt, RolloutContext, RolloutState
from aipo.trace import Consult, Mode, Role, Segment, StopReason, of_policy, segment
from graphs.hearing import Heard, check_words, hear
from graphs.ranking import as_logits, confidence, rank, success
from graphs.solo import Node, policy_prompt

T = TypeVar("T")
Interaction = Literal["cooperation", "competition"]
STAGES = ("analyse", "fuse")


class Idea3State(RolloutState):
    """`interaction` is what the switch decided on."""

    interaction: Interaction


def idea3(
    *,
    policies: Sequence[str],
    prompt: str | Path | Prompt = "idea3.md",
    cooperation: str | Path | Prompt = "idea3_cooperation.md",
    competition: str | Path | Prompt = "idea3_competition.md",
    interaction: Literal["switch", "cooperation", "competition"] = "switch",
    difficulty: Literal["asked", "confidence"] = "asked",
    answer: Literal["fused", "first"] = "fused",
    max_words: int = 256,
) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The graph of peers.

    Args:
        policies: their names.
        prompt: file with the sections `share` and, where they are asked for the difficulty, `rank`.
        cooperation, competition: files with the sections `analyse`, which may be left out, and `fuse`.
        interaction: how peers meet: as the switch decides, or always in one way.
        difficulty: where D of the switch comes from: each peer is `asked` for a number, or it is read from the `confidence`
            of its idea; see `graphs/ranking.py`.
        answer: which answer is rewarded, `fused` or the `first` one. All that a peer wrote is trained either way.
        max_words: tokens of a peer's words, of which a longer text is cut.

    Raises:
        LoadError: a prompt is missing, or has other sections or variables; it shows a peer's words not once.
        ConfigError: no policy.
    """
    names = tuple(policies)
    if not names or max_words < 1:
        raise ConfigError(
            f"policies and max_words of idea3: got {list(names)} and {max_words}, allowed at least one each"
        )
    first = policy_prompt(prompt)
    asks = interaction == "switch" and difficulty == "asked"
    first.check({"share": ("question",), "rank": ("question",)}, "a peer", optional=() if asks else ("rank",))
    graph = StateGraph(Idea3State, context_schema=RolloutContext)
    graph.add_node("prompt", _prompt_node(names, first))
    graph.add_node("share", _share_node(names))
    graph.add_node("switch", _switch_node(names, first, interaction, difficulty))
    graph.add_node("score", _score_node(names, answer))
    graph.add_edge(START, "prompt")
    graph.add_edge("prompt", "share")
    graph.add_conditional_edges("share", _after_share(names), ["switch", "score"])
    starts = dict[str, str]()
    for way, file in (("cooperation", cooperation), ("competition", competition)):
        text = policy_prompt(file)
        text.check(dict.fromkeys(STAGES, ("peers",)), "a peer", optional=("analyse",))
        stages = [stage for stage in STAGES if stage in text.sections]
        nodes = [f"{way}_{stage}" for stage in stages]
        for node, stage in zip(nodes, stages, strict=True):
            check_words(text, stage)
            graph.add_node(node, _stage_node(names, text, stage, max_words))
        for node, after in zip(nodes, [*nodes[1:], "score"], strict=True):
            graph.add_edge(node, after)
        starts[way] = nodes[0]

    async def route(state: Idea3State) -> str:
        return starts[state["interaction"]]

    graph.add_conditional_edges("switch", route, [*starts.values()])
    graph.add_edge("score", END)
    return graph.compile()


def _prompt_node(names: Sequence[str], prompt: Prompt) -> Node:
    async def write_prompt(state: Idea3State, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context, question = runtime.context, runtime.context.task.prompt
        text = prompt.render("share", question=question)
        return {
            "segments": [
                segment(
                    Role.PROMPT,
                    "prompt",
                    context.policies[name].tokenizer.encode_prompt(text, untrusted=question),
                    policy=name,
                )
                for name in names
            ]
        }

    return write_prompt


def _share_node(names: Sequence[str]) -> Node:
    async def share(state: Idea3State, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        async def idea(name: str) -> tuple[Segment, StopReason]:
            piece, finish = await runtime.context.sample(state["segments"], policy=name, source="idea")
            return piece, StopReason(finish)

        ideas = await _each(names, idea)
        stops = {name: stop for name, (_, stop) in ideas.items()}
        return {"segments": [piece for piece, _ in ideas.values()], "stops": stops}

    return share


def _after_share(names: Sequence[str]) -> Callable[..., Awaitable[str]]:
    async def after_share(state: Idea3State, runtime: Runtime[RolloutContext]) -> str:
        return "switch" if runtime.context.mode is Mode.ASSISTED and len(names) > 1 else "score"

    return after_share


def _switch_node(names: Sequence[str], prompt: Prompt, interaction: str, difficulty: str) -> Node:
    """P = 1/(1 + exp(−1.7(γ − D))) of each peer. The paper has peers cooperate below one half and compete from there on; it
    does not say who decides where they disagree. Here the mean of P does."""

    async def switch(state: Idea3State, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        if interaction != "switch":
            context.notes["cooperation"] = float(interaction == "cooperation")
            return {"interaction": interaction}
        if missing := sorted(set(names) - context.abilities.keys()):
            raise GraphError(
                f"abilities of policies: got none of {missing}, allowed a number for each peer (method.abilities.split says "
                "what they are measured on; or set graph.options.interaction)"
            )

        async def hardness(name: str) -> float:
            if difficulty == "asked":
                return await rank(context, name, prompt.render("rank", question=context.task.prompt))
            return confidence(_answers(context, state["segments"], name)[-1])

        difficulties = await _each(names, hardness)
        d = as_logits(math.fsum(difficulties.values()) / len(names))
        chances = {n: success(context.abilities[n], d) for n in names}
        mean = math.fsum(chances.values()) / len(names)
        context.notes.update({f"success_{name}": chance for name, chance in chances.items()})
        context.notes.update({"difficulty": d, "cooperation": float(mean < 0.5)})
        return {"interaction": "cooperation" if mean < 0.5 else "competition"}

    return switch


def _stage_node(names: Sequence[str], prompt: Prompt, stage: str, max_words: int) -> Node:
    """Each peer hears what the others wrote in the stage before, and goes on. One that has no room left stays with what it
    has."""

    async def hear_and_write(state: Idea3State, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context, segments = runtime.context, state["segments"]
        said = {n: context.answer(_answers(context, segments, n)[-1:], policy=n) for n in names}

        async def turn(name: str) -> tuple[list[Segment], list[Consult], StopReason]:
            others = [Heard(peer, said[peer]) for peer in names if peer != name]
            tokenizer, place = context.policies[name].tokenizer, len(of_policy(segments, name))
            told = hear(tokenizer, prompt, stage, others, max_words=max_words)
            heard = [segment(Role.AGENT, peer, words.token_ids, policy=name) for peer, words in told]
            if context.room([*segments, *heard], policy=name) <= 0:
                return [], [], StopReason.LENGTH
            piece, finish = await context.sample([*segments, *heard], policy=name, source=stage)
            consults = [
                Consult(
                    agent=peer,
                    request=said[name],
                    reply=words.text,
                    error=words.change,
                    request_segment=place - 1,
                    request_start=0,
                    reply_segment=place + number,
                    policy=name,
                )
                for number, (peer, words) in enumerate(told)
            ]
            return [*heard, piece], consults, StopReason(finish)

        turns = await _each([n for n in names if state["stops"][n] is StopReason.EOS], turn)
        return {
            "segments": [piece for pieces, _, _ in turns.values() for piece in pieces],
            "consults": [consult for _, consults, _ in turns.values() for consult in consults],
            "stops": {name: stop for name, (_, _, stop) in turns.items()},
        }

    return hear_and_write


def _score_node(names: Sequence[str], answer: str) -> Node:
    async def score(state: Idea3State, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context

        async def parts(name: str) -> dict[str, float] | None:
            written = _answers(context, state["segments"], name)[0 if answer == "first" else -1]
            return await context.score(context.answer([written], policy=name), policy=name)

        return {"reward_parts": await _each(names, parts)}

    return score


def _answers(context: RolloutContext, segments: Sequence[Segment], name: str) -> list[Segment]:
    """What a peer wrote, stage by stage."""
    return [s for s in of_policy(segments, name) if s.role is context.mode.author]


async def _each(names: Sequence[str], work: Callable[[str], Awaitable[T]]) -> Mapping[str, T]:
    """Does it for all peers at once. When one fails, the others end."""
    tasks = [asyncio.ensure_future(work(name)) for name in names]
    try:
        return dict(zip(names, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
