"""Teachers for `aipo warmup` on the miniature: chat models that follow its script, and some that do not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from aipo.config.build import Experiment, load_experiment
from envs.miniature.task import OFFER, Miniature
from kit.tiny_run import model_folder

INSTRUCTION = "Ask with <consult:NAME>request</consult>."


def script(texts: Sequence[str], *, carry: bool = True) -> str:
    """The miniature's teacher's turn behind a prompt and what was written since, as a chat's messages say it."""
    prompt, *written = texts
    (task,) = [
        task
        for split in ("hard", "easy_train")
        for task in Miniature(carry=carry).tasks(split)
        if task.prompt == prompt.removeprefix(OFFER)
    ]
    return Miniature(carry=carry).turn(task, "".join(written)) if prompt.startswith(OFFER) else _solo(task)


def _solo(task: Any) -> str:
    shown = Miniature().demonstration(task)
    assert shown is not None
    return shown


class TeacherChat(BaseChatModel):
    """Writes what its function makes of the texts after the system message, and ends it in front of a stop text."""

    function: Callable[[Sequence[str]], str]
    stops: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "teacher"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **__: Any
    ) -> ChatResult:
        self.stops.append(stop)
        text = self.function([str(m.text) for m in messages if m.type != "system"])
        for end in stop or ():
            text = text.partition(end)[0]
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        message = AIMessage(text, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: list[BaseMessage], *rest: Any, **named: Any) -> ChatResult:
        return self._generate(messages, *rest, **named)


def scripted() -> BaseChatModel:
    """Follows the script."""
    return TeacherChat(function=script)


def talkative() -> BaseChatModel:
    """Thinks aloud, and goes on behind a request with a reply and an answer of its own."""

    def said(texts: Sequence[str]) -> str:
        text = script(texts)
        invented = "<feedback:knowledge>3@7=1</feedback>#1" if text.endswith("</consult>") else ""
        return f"<think>hm</think>{text}{invented}"

    return TeacherChat(function=said)


def mistaken() -> BaseChatModel:
    """Asks somebody who is not there, then answers wrongly."""
    return TeacherChat(function=lambda texts: "#1" if len(texts) > 1 else "<consult:oracle>3@7</consult>")


def silent() -> BaseChatModel:
    """Writes nothing."""
    return TeacherChat(function=lambda _: "")


def config(folder: Path, *overrides: str) -> Experiment:
    """A warm-up of random weights on the miniature, a few demonstrations in one step."""
    if not (folder / "start").exists():
        model_folder(folder / "start")
    words = [
        f"run.out={folder / 'run'}",
        f"policy={{model: {folder / 'start'}}}",
        "env.mixture={hard: 1.0}",
        "warmup.steps=1",
        "warmup.demonstrations=8",
        "warmup.batch=4",
        "warmup.probes=4",
        "warmup.assist_share=0.75",
        "rollout.max_tokens=64",
        "run.threads=1",
    ]
    return load_experiment("aipo_distil", [*words, *overrides])
