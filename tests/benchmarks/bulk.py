"""Runs in bulk, for benchmarks: short traces as graphs make them, long ones that look like a large model's.

Nothing is trained. A policy that follows a rule plays the miniature, its log-probs and entropies are drawn; long
traces are short ones whose segments were stretched. `fill` writes as many as one likes, `furnish` what else lies in
a run folder.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models

sys.path.insert(0, str(Path(__file__).parents[1]))
from aipo.config.build import load_experiment
from aipo.method.metrics import rollout_metrics
from aipo.method.plan import plan_rollouts
from aipo.method.rows import CODES
from aipo.method.settings import MethodSettings
from aipo.method.task_order import draw_tasks
from aipo.policies import Completion, SampleRequest
from aipo.policies.scripted import ScriptedPolicy
from aipo.run import RunFolder
from aipo.trace import Role, Segment, Trace, segment
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStats, TokenStatsStore
from aipo.util.files import write_text
from envs.miniature.arithmetic import VALUES, slip
from envs.miniature.task import OFFER, Facts
from kit.recorded import TOKENIZER, describe, save_tokenizer, stats_of_row

GROUPS, GROUP = 16, 8
STEP = GROUPS * GROUP
VOCABULARY = 150_000
UPDATES = 4  # of a generation
EXPERIMENT = load_experiment("aipo_distil")
Floats = npt.NDArray[np.float32]


class Student(ScriptedPolicy):
    """Asks now and then where it can, guesses what it does not know, slips in one sum of five."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(TOKENIZER, ())
        self._known = {name: facts.value[name] for name in facts.known} | {str(n): n for n in VALUES}

    async def sample(self, request: SampleRequest) -> Completion:
        script = partial(self.write, rng=random.Random(request.seed))
        return await ScriptedPolicy(TOKENIZER, script).sample(request)

    def write(self, context: str, rng: random.Random) -> str:
        question, _, work = context.removeprefix(OFFER).partition("=?\n")
        first, _, operand = question.partition("+")
        offered = context.startswith(OFFER)
        if "<feedback:verify>" in work:
            return "\n#" + re.findall(r"=(\d+)", work)[-1]
        read = re.search(rf"{first}=(\d+)", work)
        value = int(read[1]) if read else self._known.get(first)
        if value is None and offered and rng.random() < 0.7:
            return f"<consult:knowledge>{first}</consult>"
        value = value or rng.randrange(100, 900)
        total = value + int(operand)
        claim = f"{value}+{operand}={slip(total, rng) if rng.random() < 0.2 else total}"
        lines = "\n" * bool(work) + f"{first}={value}\n" * ("@" in first) + claim
        if offered and rng.random() < 0.3:
            return f"{lines}<consult:verify>{claim}</consult>"
        return f"{lines}\n#{claim.partition('=')[2]}"


def short(steps: int = 4) -> list[Trace]:
    """`STEP` traces a step: rollouts of the miniature through the real graphs, half of a group with agents."""
    policy: Any = Student(Facts.draw(EXPERIMENT.seed))
    engine, rng = EXPERIMENT.engine(policy, run_id="bulk"), np.random.default_rng(0)
    traces: list[Trace] = []
    for step in range(steps):
        tasks = draw_tasks(engine.env, EXPERIMENT.mixture, GROUPS, step=step, seed=0)
        specs = plan_rollouts(tasks, MethodSettings(), step=step, steps=steps, group_size=GROUP, seed=0)
        ran = engine.run_sync(specs, lambda trace: None)
        drawn = [replace(t, segments=tuple(_drawn(s, rng) for s in t.segments)) for t in ran]
        traces += EXPERIMENT.credit(drawn).traces
    return traces


def long(templates: Iterable[Trace], tokens: int) -> list[Trace]:
    """The same rollouts, each of `tokens` tokens of a large vocabulary, by Zipf's law; who asked still asks."""
    rng = np.random.default_rng(0)
    chances = 1 / (np.arange(VOCABULARY) + 2.7)
    chances /= chances.sum()

    def stretched(trace: Trace) -> Trace:
        weights = np.cumsum([12 if s.role is Role.POLICY else 1 for s in trace.segments])
        ids = np.split(rng.choice(VOCABULARY, tokens, p=chances), weights[:-1] * tokens // weights[-1])
        made = (
            segment(s.role, s.source, own, logprobs=None if s.logprobs is None else np.zeros(len(own)))
            for s, own in zip(trace.segments, ids, strict=True)
        )
        return replace(trace, segments=tuple(_drawn(s, rng) for s in made))

    return [stretched(trace) for trace in templates]


def again(trace: Trace, step: int) -> Trace:
    """The same rollout in another step, under an id of its own."""
    group_id = f"{step:05d}-{trace.group_id.partition('-')[2]}"
    return replace(trace, step=step, group_id=group_id, trace_id=f"bulk/{group_id}/{trace.index}")


def fill(folder: Path, templates: Sequence[Trace], count: int, **store: Any) -> int:
    """Seals `count` traces, rounded up to whole steps, the templates over and over. Returns the steps."""
    steps = -(-count // STEP)
    with TraceStore(folder, **store) as files:
        for step in range(steps):
            files.seal(step, step_of(templates, step))
    return steps


def step_of(templates: Sequence[Trace], step: int) -> list[Trace]:
    """The traces that `fill` gives a step."""
    at = step * STEP % len(templates)
    return [again(trace, step) for trace in templates[at : at + STEP]]


def furnish(
    run: RunFolder, templates: Sequence[Trace], steps: int, save: Callable[[str], object] = save_tokenizer
) -> None:
    """Configuration, manifest, drawing, tokenizer and metrics of a run of so many steps."""
    describe(run, EXPERIMENT, save, "by rule")
    rng = np.random.default_rng(0)
    rows = (json.dumps(row) for step in range(steps) for row in metrics(step_of(templates, step), step, rng))
    write_text(run.metrics, "".join(f"{row}\n" for row in rows))


def metrics(traces: Sequence[Trace], step: int, rng: np.random.Generator) -> list[Mapping[str, float]]:
    """The lines that training would log of one generation; what only training knows is drawn."""
    of_roles = ("entropy", "probability", "weight", "loss_share")
    names = [f"{name}/{role}" for name in of_roles for role in ("policy", "agent", "distilled")]
    names += [
        "loss",
        "grad_norm",
        "ratio/policy",
        "clip/policy",
        "clip/agent",
        "mismatch/mean",
        "mismatch/max",
    ]
    rows = [
        {"step": step * UPDATES + i + 1} | {n: float(rng.random()) for n in names} for i in range(UPDATES)
    ]
    return [rows[0] | rollout_metrics(traces, list(EXPERIMENT.agents)), *rows[1:]]


def keep_stats(folder: Path, traces: Sequence[Trace]) -> None:
    """Token stats of one step: of every trace with an advantage, as if its ratios were near 1."""
    rng = np.random.default_rng(0)
    TokenStatsStore(folder).publish(traces[0].step, [_stats(t, rng) for t in traces if t.advantage])


def long_tokenizer() -> Tokenizer:
    """As large as a large model's: byte-level BPE, each id a word of one to four letters."""
    words, letters = [f"Ġ{word}" for word in _words()], [chr(ord("a") + i) for i in range(26)]
    vocabulary = {text: i for i, text in enumerate([*words, "Ġ", *letters])}
    merges = [(word[:-1], word[-1]) for word in words]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def long_words(ids: npt.NDArray[np.int32]) -> str:
    """What `long_tokenizer` decodes them to."""
    words = _words()
    return "".join(f" {words[i]}" for i in ids.tolist())


@cache
def _words() -> list[str]:
    """Ids as numbers of base 26: frequent ones are short, as in a language."""
    words = [chr(ord("a") + i) for i in range(26)]
    for number in range(26, VOCABULARY):
        words.append(words[number // 26] + words[number % 26])
    return words


def _drawn(own: Segment, rng: np.random.Generator) -> Segment:
    """The segment with log-probs and entropies as sampling leaves them, where it has log-probs."""
    if own.logprobs is None:
        return own
    logprobs, entropies = sampled(rng, len(own))
    return replace(own, logprobs=logprobs, entropies=entropies)


def sampled(rng: np.random.Generator, count: int, width: int = 64) -> tuple[Floats, Floats]:
    """Log-probs and entropies of `count` draws from softmaxes in float32; many of them are nearly sure."""
    logits = rng.standard_normal((count, width), np.float32) * rng.gamma(3, 3, (count, 1)).astype(np.float32)
    logits -= logits.max(1, keepdims=True)
    logps = np.maximum(logits - np.log(np.exp(logits).sum(1, keepdims=True)), -80)
    chosen = (logps + rng.gumbel(size=logps.shape)).argmax(1)
    entropies = -(np.exp(logps) * logps).sum(1)
    return np.minimum(logps[np.arange(count), chosen], 0), np.maximum(entropies, 0)


def _stats(trace: Trace, rng: np.random.Generator) -> TokenStats:
    stats = stats_of_row(trace)
    policy = stats.codes_T == CODES[Role.POLICY]
    ratios = np.exp(rng.normal(0, 0.1, len(policy))).astype(np.float32)
    clipped = policy & (np.abs(ratios - 1) > 0.2)
    return replace(
        stats,
        optimizer_step=trace.step * UPDATES + 1,
        weights_T=np.where(clipped, 0, np.where(policy, ratios, 1)).astype(np.float32),
        ratios_T=np.where(policy, ratios, np.nan).astype(np.float32),
        clipped_T=clipped,
    )
