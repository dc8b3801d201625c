"""What a model could before training: does it still? Ordinary prompts, and sums of two digits.

    python tests/benchmarks/retention.py BEFORE AFTER [AFTER ...] [--out retention.json]

Each argument is a model's folder, or a run folder that has one. The first model answers 200 short prompts in English
(temperature 1, at most 48 tokens). Its answers are kept beside the result and are used again for the same weights.

- *Perplexity*: of these answers under each model, with prompts as context. The ratio to the first model's own is 1 where
  nothing has changed (its logarithm estimates KL(before, after) in nats per token); *worst kind* is the largest ratio of
  one kind of prompt.
- *Sums*: "What is 3 + 4?" for all digits, answered greedily. Of the sums that the first model gets right, the share that is
  still right.

The models need the same ids for these prompts: more tokens, as `policy.add_tags` brings them, do no harm. About two
minutes for each model on two cores.
"""

import argparse
import asyncio
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import show
from retention_prompts import PROMPTS, SUMS

from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.util.threads import limit_torch

TOKENS, SUM_TOKENS, BATCH = 48, 24, 16
GREEDY = 1e-6
"""A temperature so low that the likeliest token has all of the probability."""
Answers = list[list[int]]


def model_folder(name: str) -> Path:
    folder = Path(name)
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder


def load(folder: Path) -> LocalPolicy:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return LocalPolicy(model, HFTokenizer(AutoTokenizer.from_pretrained(folder)), max_batch=BATCH)


def encoded(policy: LocalPolicy, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.array(policy.tokenizer.encode_prompt(text), np.int32) for text in texts]


def answer(
    policy: LocalPolicy, texts: Sequence[str], *, seed: int, tokens: int, temperature: float
) -> Answers:
    async def sample() -> list[Any]:
        requests = (
            SampleRequest(context, max_tokens=tokens, temperature=temperature, seed=seed * 100_000 + i)
            for i, context in enumerate(encoded(policy, texts))
        )
        return await asyncio.gather(*map(policy.sample, requests))

    return [done.token_ids.tolist() for done in asyncio.run(sample())]


def first_answers(policy: LocalPolicy, folder: Path, texts: Sequence[str], seed: int, file: Path) -> Answers:
    """The first model's answers, from `file` if they are of the same weights, prompts and seed."""
    digest = hashlib.sha256(repr((seed, TOKENS, [ids.tolist() for ids in encoded(policy, texts)])).encode())
    for weights in sorted(folder.glob("*.safetensors")):
        with weights.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    key = digest.hexdigest()
    if file.is_file() and (kept := json.loads(file.read_text()))["key"] == key:
        return kept["token_ids"]
    answers = answer(policy, texts, seed=seed, tokens=TOKENS, temperature=1.0)
    pairs = [[text, policy.tokenizer.decode(ids)] for text, ids in zip(texts, answers, strict=True)]
    file.write_text(json.dumps({"key": key, "token_ids": answers, "texts": pairs}) + "\n")
    return answers


def surprise(policy: LocalPolicy, texts: Sequence[str], answers: Answers) -> list[float]:
    """Of each answer: the negative log-probability of all of its tokens (nats)."""
    return [
        -float(score(policy.model, context, np.array(ids, np.int32)).sum())
        for context, ids in zip(encoded(policy, texts), answers, strict=True)
    ]


def right_sums(policy: LocalPolicy, sums: dict[str, int]) -> list[str]:
    """The sums whose answer ends its first line with the right number."""
    answers = answer(policy, [*sums], seed=0, tokens=SUM_TOKENS, temperature=GREEDY)
    right: list[str] = []
    for (text, value), ids in zip(sums.items(), answers, strict=True):
        line = policy.tokenizer.decode(ids).strip().partition("\n")[0]
        numbers = re.findall(r"\d+", line)
        if numbers and int(numbers[-1]) == value:
            right.append(text)
    return right


def perplexity(nats: Sequence[float], answers: Answers) -> float:
    return float(np.exp(sum(nats) / sum(map(len, answers))))


def compare(
    policy: LocalPolicy,
    prompts: dict[str, str],
    asked: dict[str, int],
    answers: Answers,
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """What one model still can.

    Args:
        prompts: their kinds.
        asked: the sums, with their values.
        before: the same of the first model; None for itself.
    """
    nats, sums = surprise(policy, [*prompts], answers), right_sums(policy, asked)
    first = before or {"nats": nats, "sums": sums}
    counts = [len(ids) for ids in answers]
    change = np.subtract(nats, first["nats"])
    kinds = np.array([*prompts.values()])
    ratios = {
        kind: float(np.exp(change[kinds == kind].sum() / np.array(counts)[kinds == kind].sum()))
        for kind in dict.fromkeys(prompts.values())
    }
    known = [text for text in first["sums"] if text in sums]
    return {
        "perplexity": perplexity(nats, answers),
        "ratio": float(np.exp(change.sum() / sum(counts))),
        "ratio_by_kind": ratios,
        "sums_right": len(sums) / len(asked),
        "sums_still_right": len(known) / len(first["sums"]) if first["sums"] else None,
        "nats": nats,
        "sums": sums,
    }


def row(name: str, result: dict[str, Any]) -> list[str]:
    kind, worst = max(result["ratio_by_kind"].items(), key=lambda item: item[1])
    still = result["sums_still_right"]
    return [
        name,
        f"{result['perplexity']:.3f}",
        f"{result['ratio']:.3f}",
        f"{worst:.3f} ({kind})",
        f"{result['sums_right']:.2f}",
        "none were right" if still is None else f"{still:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", help="folder of the first model")
    parser.add_argument("after", nargs="+", help="folders of other models")
    parser.add_argument(
        "--out", type=Path, default=Path("retention.json"), help="a JSON file for the numbers"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first model's answers")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="fewer, and fewer sums, to try it")
    given = parser.parse_args()
    limit_torch(None)
    every = max(1, len(PROMPTS) // given.prompts)
    prompts, sums = dict([*PROMPTS.items()][::every]), dict([*SUMS.items()][::every])
    results: dict[str, Any] = {}
    answers: Answers = []
    contexts: list[list[int]] = []
    for name in (given.before, *given.after):
        folder = model_folder(name)
        policy = load(folder)
        ids = [context.tolist() for context in encoded(policy, [*prompts])]
        if not results:
            kept = given.out.with_suffix(".answers.json")
            answers, contexts = first_answers(policy, folder, [*prompts], given.seed, kept), ids
        elif ids != contexts:
            sys.exit(f"{name}: got another tokenizer or chat template than {given.before}, allowed the same")
        results[name] = compare(policy, prompts, sums, answers, results.get(given.before))
    columns = ("", "perplexity", "ratio", "worst kind", "sums right", "still right of those")
    numbers = {"before": given.before, "tokens": sum(map(len, answers)), "models": results}
    show(columns, [row(name, result) for name, result in results.items()], numbers, given.out)


if __name__ == "__main__":
    main()
