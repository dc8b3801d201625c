"""Runs to export: a tokenizer with a token for each character, traces made of texts, and what was written of them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from aipo.export.run import Exported, ExportOptions
from aipo.export.run import export as export_traces
from aipo.policies.tokenizer import HFTokenizer
from aipo.trace import Mode, Role, Segment, StopReason, Trace, segment
from aipo.trace.store import TraceStore
from kit.handmade import agent, consult, policy, trace

SPECIAL = ("<pad>", "<eos>", "<user>", "</user>", "<assistant>")
TAGS = ("<consult:knowledge>", "</consult>", "<feedback:knowledge>", "</feedback>", "<notice>", "</notice>")
WORDS = (*SPECIAL, *TAGS, *map(chr, range(32, 127)), "\n")
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<user>{{ m.content }}</user>"
    "{% else %}<assistant>{% generation %}{{ m.content }}<eos>{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE, *, strip: bool = False) -> PreTrainedTokenizerFast:
    """One token per character, and one for each tag; `strip`: decoding leaves out a first space."""
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    steps = [decoders.Fuse(), *([decoders.Strip(" ", 1, 0)] if strip else [])]
    inner.decoder = decoders.Sequence(steps)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=[*SPECIAL[2:], *TAGS],
    )
    fast.chat_template = template
    return fast


class Run:
    """A run folder, and traces to put into it. The name of a trace is its group and index: g0/1."""

    def __init__(
        self, path: Path, *, template: str | None = TEMPLATE, stored_texts: bool = True, strip: bool = False
    ) -> None:
        self.path = path
        inner = tokenizer(template, strip=strip)
        self.words = HFTokenizer(inner)
        path.mkdir()
        inner.save_pretrained(path / "tokenizer")
        self.store = TraceStore(path / "traces", decode=self.words.decode if stored_texts else None)

    def prompt(self, question: str) -> Segment:
        return segment(Role.PROMPT, "task", self.words.encode_prompt(question))

    def answer(self, text: str) -> Segment:
        return policy(*self.words.encode(text, control=True))

    def feedback(self, text: str) -> Segment:
        return agent(*self.words.encode(f"<feedback:knowledge>{text}</feedback>", control=True))

    def trace(self, name: str, *segments: Segment, **changes: Any) -> Trace:
        names = {"trace_id": name, "group_id": name.partition("/")[0], "index": int(name[-1])}
        return trace(*segments, **(names | changes))

    def solo(
        self, name: str, question: str, answer: str, reward: float | None = 1.0, **changes: Any
    ) -> Trace:
        failed = {"advantage": None, "stop_reason": StopReason.ERROR} if reward is None else {}
        segments = self.prompt(question), self.answer(answer)
        return self.trace(name, *segments, **({"reward": reward} | failed | changes))

    def assisted(self, name: str, question: str, answer: str, reward: float = 1.0, **changes: Any) -> Trace:
        """Asks for 3@7 after 'So ', is told 582, and goes on."""
        request, reply = self.answer("So <consult:knowledge>3@7</consult>"), self.feedback("582")
        segments = self.prompt(f"agents: {question}"), request, reply, self.answer(answer)
        rest = {"reward": reward, "mode": Mode.ASSISTED, "consults": (consult(1, 3, 2),)}
        return self.trace(name, *segments, **(rest | changes))

    def keep(self, *traces: Trace) -> None:
        for step in sorted({one.step for one in traces}):
            self.store.seal(step, [one for one in traces if one.step == step])

    def export(self, format: str, *, force: bool = True, **options: Any) -> Exported:
        return export_traces(self.path, ExportOptions(format=format, force=force, **options))

    def chats(self, **options: Any) -> list[tuple[str, str]]:
        """Question and answer of each row of an `sft` export."""
        return [
            (row["messages"][0]["content"], row["messages"][1]["content"])
            for row in rows(self.export("sft", **options).path)
        ]

    def pairs(self, **options: Any) -> list[tuple[str, str]]:
        """Index of the better and of the worse trace in each row of a `preference` export."""
        exported = rows(self.export("preference", **options).path)
        return [(row["chosen_id"], row["rejected_id"]) for row in exported]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
