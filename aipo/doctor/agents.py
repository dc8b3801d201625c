"""Do the agents answer? One tiny call for each."""

import asyncio
import time
from collections.abc import Iterator

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
    chats: dict[str, ChatModel] = {}
    for name in experiment.agents:
        built = attempt(_label(name), lambda name=name: experiment.chat(name))
        if isinstance(built, Check):
            yield built
        elif built is None:
            yield Check("ok", _label(name), "has no chat model: its graph answers by itself")
        elif isinstance(built.model, ReferenceChat):
            yield Check(
                "ok", _label(name), "is the initial policy, in this process: there is no server to ask"
            )
        else:
            chats[name] = built
    yield from LOOP.run(_ask_all(chats, {name: experiment.agents[name].timeout for name in chats}))


async def _ask_all(chats: dict[str, ChatModel], seconds: dict[str, float]) -> list[Check]:
    return await asyncio.gather(*(_ask(name, chats[name], seconds[name]) for name in chats))


async def _ask(name: str, chat: ChatModel, seconds: float) -> Check:
    label, began = _label(name), time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            reply = await chat.model.ainvoke([HumanMessage(TEXT)])
    except TimeoutError:
        found = f"{chat.name} does not answer within {seconds:g} s"
        return Check("fail", label, found, f"is its server up? Else agents.{name}.timeout")
    except Exception as error:  # a provider's client raises its own errors
        return Check("fail", label, f"{chat.name}: {error_text(error)}", _advice(name, error))
    text = str(reply.text).strip()
    if not text:
        found = f"{chat.name} answers with no text"
        return Check("fail", label, found, "a limit on its tokens that its thinking uses up?")
    return Check(
        "ok", label, f"{chat.name} answers in {duration(time.perf_counter() - began)}: {text[:40]!r}"
    )


def _label(name: str) -> str:
    return f"agent {name}"


def _advice(name: str, error: Exception) -> str:
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return f"the key in the variable that agents.{name}.secrets names"
    if status == 404:
        return f"agents.{name}.options: base_url ends with /v1, model is one that is served there"
    if status is None and "Connection" in type(error).__name__:
        return f"is its server up? Else agents.{name}.options.base_url"
    return f"agents.{name}.options"
