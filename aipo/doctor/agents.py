"""Do the agents answer? One tiny call for each."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from langchain_core.messages import HumanMessage

from aipo.config.build import Experiment
from aipo.doctor.check import Check, attempt
from aipo.rollout.context import ChatModel
from aipo.rollout.reference_chat import ReferenceChat
from aipo.util.event_loop import LOOP
from aipo.util.text import duration, error_text

TEXT = "Reply with one word: ready"


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
    text = str(reply.text).strip()
    if not text:
        found = f"{chat.name} answers with no text"
        return Check("fail", label, found, "a limit on its tokens that its thinking uses up?")
    took = duration(time.perf_counter() - began)
    return Check("ok", label, f"{chat.name} answers in {took}: {text[:40]!r}")
