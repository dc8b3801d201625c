"""Do the agents answer? One tiny call for each."""

import asyncio
import re
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from langchain_core.messages import HumanMessage

from aipo.config.build import Experiment
from aipo.doctor.check import Check, attempt
from aipo.rollout.context import ChatModel
from aipo.rollout.reference_chat import ReferenceChat
from aipo.util.event_loop import LOOP
from aipo.util.http.reply import Reply, read_reply
from aipo.util.text import duration, error_text

TEXT = "Reply with one word: ready"
_TAG = re.compile(r"<\|?\w+\|?>|\[[A-Z]+\]|◁\w+▷")


def check_agents(experiment: Experiment) -> Iterator[Check]:
    """One line for each agent, all asked at once."""
    calls: list[Coroutine[Any, Any, Check]] = []
    for name, agent in experiment.agents.items():
        label = f"agent {name}"
        chat = attempt(label, lambda name=name: experiment.chat(name))
        if isinstance(chat, Check):
            yield chat
        elif chat is None:
            yield Check("ok", label, "has no chat model: its graph answers by itself")
        elif isinstance(chat.model, ReferenceChat):
            yield Check("ok", label, "is the initial policy, in this process: there is no server to ask")
        else:
            calls.append(_call(name, chat, agent.timeout))
    yield from LOOP.run(_all(calls))


async def _all(calls: list[Coroutine[Any, Any, Check]]) -> list[Check]:
    return await asyncio.gather(*calls)


async def _call(name: str, chat: ChatModel, seconds: float) -> Check:
    label, began = f"agent {name}", time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            reply = await chat.model.ainvoke([HumanMessage(TEXT)])
    except TimeoutError:
        found = f"{chat.name} does not answer within {seconds:g} s"
        return Check("fail", label, found, f"is its server up? Else agents.{name}.timeout")
    except Exception as error:  # a provider's client raises its own errors
        advice = (
            f"is its server up? Else agents.{name}.options (base_url ends with /v1, model is one that is served there), "
            f"or the key in the variable that agents.{name}.secrets names"
        )
        return Check("fail", label, f"{chat.name}: {error_text(error)}", advice)
    return _judge(name, chat, read_reply(reply, chat.thinking), duration(time.perf_counter() - began))


def _judge(name: str, chat: ChatModel, reply: Reply, took: str) -> Check:
    """Is it an answer, and all of it?"""
    label, text, thinking = f"agent {name}", reply.text.strip(), reply.thinking or ""
    limit = f"a larger limit on its tokens in agents.{name}.options"
    if reply.cut:
        said = f"{text[:40]!r}" + f" after thinking {thinking[:40]!r}" * bool(thinking)
        found = f"{chat.name}: its server cut the reply (finish_reason {reply.finish}): {said}"
        return Check("fail", label, found, f"{limit} (max_completion_tokens), or less thinking")
    if not text and thinking:
        found = f"{chat.name} answers with thinking only: {thinking[:80]!r}"
        return Check(
            "fail", label, found, f"{limit}, thinking turned off, or the tags in agents.{name}.thinking"
        )
    if not text:
        found = f"{chat.name} answers with no text"
        return Check("fail", label, found, "a limit on its tokens that its thinking uses up?")
    if tag := _TAG.match(text):
        found = f"{chat.name} answers in {took}: {text[:80]!r}"
        return Check(
            "warn", label, found, f"is {tag[0]} the beginning of thinking? Then agents.{name}.thinking"
        )
    thought = f" after thinking, {len(thinking)} characters" if thinking else ""
    heeds = getattr(chat.model, "heeds", None)
    rules = f"; it follows rules, and reads of its prompt {heeds}" if heeds else ""
    return Check("ok", label, f"{chat.name} answers in {took}{thought}: {text[:40]!r}{rules}")
