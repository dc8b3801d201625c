"""The job that `bench_neighbours.py` gives to everybody, and the server that plays the policy in it.

A question; twice some thinking and a request for a fact; some thinking and the answer. Every stretch of the
policy has `TOKENS` tokens, whichever way a request is written. Nothing of ours is imported here: other
environments use it, too.
"""

import argparse
import json
import random
import resource
from pathlib import Path
from typing import Any

MODEL = "fixed"
TURNS, TOKENS = 3, 256
QUESTION = "What is the sum of the two numbers that the table has for plum and for fig? " + "Think well. " * 8
FACT = "582"
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Look a word up in the table.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "The word."}},
            "required": ["key"],
        },
    },
}
TAGS = ("<consult:lookup>", "</consult>", "<feedback:lookup>", "</feedback>")
WORDS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *TAGS,
)
END, CALLED, ASKED = WORDS.index("<|im_end|>"), WORDS.index("<tool_response>"), WORDS.index("</consult>")


def tokenizer(template: str) -> Any:
    """One token per byte, and one per special word of Qwen3 and of our grammar."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {word: i for i, word in enumerate((*WORDS, *sorted(ByteLevel.alphabet())))}
    made = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token=None,
        extra_special_tokens=list(WORDS[1:]),
    )
    made.chat_template = template
    return made


def stretches(words: Any, *, tags: bool) -> list[list[int]]:
    """Ids of what the policy writes, turn by turn: with our tags, or with tool calls as Qwen3 writes them."""
    requests = (
        [f"<consult:lookup>{key}</consult>" for key in ("plum", "fig")]
        if tags
        else [
            f"\n<tool_call>\n{json.dumps({'name': 'lookup', 'arguments': {'key': key}})}\n</tool_call><|im_end|>"
            for key in ("plum", "fig")
        ]
    )
    ends = [words.encode(text, add_special_tokens=False) for text in (*requests, "42<|im_end|>")]
    filler = words.encode("so it is, " * TOKENS, add_special_tokens=False)
    return [filler[: TOKENS - len(end)] + end for end in ends]


class Policy:
    """Answers what is asked of it as vLLM does, on the routes that anybody here uses."""

    def __init__(self, words: Any) -> None:
        rng = random.Random(0)
        self._tagged, self._called = stretches(words, tags=True), stretches(words, tags=False)
        self._logprobs = [-rng.expovariate(1.0) for _ in range(TOKENS)]

    def __call__(self, asked: bytes) -> bytes:
        request = json.loads(asked)
        if "token_ids" in request:
            generated = self._generated(request["token_ids"])
            return json.dumps({"request_id": "0", "choices": [generated]}).encode()
        prompts = request["prompt"] if isinstance(request["prompt"][0], list) else [request["prompt"]]
        choices = [self._completed(prompt) for prompt in prompts for _ in range(request.get("n", 1))]
        return json.dumps(
            {"id": "0", "object": "text_completion", "model": MODEL, "choices": choices}
        ).encode()

    def _next(self, prompt: list[int]) -> tuple[list[int], str | None]:
        """Tokens, and the stop string that ends them. Who has asked nobody yet is asked for what it can write:
        tags where the system message offers no tools."""
        if CALLED in prompt or WORDS.index("<tool_call>") in prompt:
            return self._called[prompt.count(CALLED)], None
        turn = prompt.count(ASKED)
        return self._tagged[turn], "</consult>" if turn < TURNS - 1 else None

    def _completed(self, prompt: list[int]) -> dict[str, Any]:
        ids, stop = self._next(prompt)
        names = [f"token_id:{i}" for i in ids]
        return {
            "index": 0,
            "text": "",
            "logprobs": {
                "text_offset": [0] * len(ids),
                "token_logprobs": self._logprobs,
                "tokens": names,
                "top_logprobs": [{name: p} for name, p in zip(names, self._logprobs, strict=True)],
            },
            "finish_reason": "stop",
            "stop_reason": stop,
            "token_ids": ids,
            "prompt_token_ids": prompt,
        }

    def _generated(self, prompt: list[int]) -> dict[str, Any]:
        ids, _ = self._next(prompt)
        entries = [
            {"token": f"token_id:{i}", "logprob": p, "bytes": None, "top_logprobs": []}
            for i, p in zip(ids, self._logprobs, strict=True)
        ]
        return {"index": 0, "logprobs": {"content": entries}, "finish_reason": "stop", "token_ids": ids}


def cpu() -> float:
    """Seconds that this process and its ended children have computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def given() -> argparse.Namespace:
    """The command line of a contestant."""
    parser = argparse.ArgumentParser()
    for name, kind in {"url": str, "folder": str, "rollouts": int, "rounds": int}.items():
        parser.add_argument(name, type=kind)
    return parser.parse_args()


def tell(milliseconds: list[float], what: str) -> None:
    """The last line that a contestant prints."""
    print(json.dumps({"ms": milliseconds, "what": what}))


def template_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")
