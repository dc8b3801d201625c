"""Rehearsal: what the policy could before training, learned again beside each rollout step.

What is learned on few tasks changes answers to all others. Before the first step the policy answers ordinary prompts. Each
rollout step then takes a few of these answers, and the loss holds the policy to the probabilities that they had, which is the
KL from the policy before training (`aipo.method.loss.rehearsal_weights`). "Learning without Forgetting" (1606.09282) does so
with the classes of an image. RUN/rehearsal.jsonl keeps the answers. A run that begins with the
model of a run that rehearsed the same prompts takes over that run's answers: those of the model that both are to remember.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aipo.config.build import Experiment
from aipo.errors import ConfigError
from aipo.method.rows import Code, Row, SegmentInfo
from aipo.method.step_rows import StepRows
from aipo.policies.base import Policy, SampleRequest, Tokenizer
from aipo.rollout.spec import derive_seed
from aipo.run import RunFolder
from aipo.trace import Role
from aipo.util.console import Note
from aipo.util.event_loop import LOOP
from aipo.util.files import write_text
from aipo.util.imports import instantiate, load

_SEGMENTS = (
    SegmentInfo(Role.PROMPT, "rehearsal", has_logprobs=False),
    SegmentInfo(Role.POLICY, "rehearsal", has_logprobs=True),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy answered to a prompt.

    Args:
        token_ids: of the answer; ends with the end token, unless `rehearsal.max_tokens` cut it.
        logprobs: of these tokens (nats), as the policy sampled them.
    """

    prompt: str
    answer: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Rehearsal:
    """The answers of a run, and how many of them each rollout step learns.

    Args:
        count: rows in each rollout step.
        weight: of the KL, where a policy's token with A = 1 weighs 1.
    """

    answers: Sequence[Answer] = ()
    count: int = 0
    weight: float = 1.0
    seed: int = 0

    def beside(self, rows: StepRows, step: int) -> StepRows:
        """The rows of rollout step `step`, from 0, and these: all answers in one random order, then in another, and so on."""
        if not self.answers:
            return rows
        places, size = range(step * self.count, (step + 1) * self.count), len(self.answers)
        epochs = {place // size for place in places}
        orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(size) for epoch in epochs}
        own = tuple(self._row(place, self.answers[orders[place // size][place % size]]) for place in places)
        metrics = {**rows.metrics, "rows/rehearsed": float(len(own))}
        return replace(rows, rows=(*rows.rows, *own), metrics=metrics)

    def _row(self, place: int, answer: Answer) -> Row:
        prompt = np.full(len(answer.prompt_ids), np.nan, np.float32)
        lengths = len(answer.prompt_ids), len(answer.token_ids)
        return Row(
            trace_id=f"rehearsal-{place}",
            kind="rehearsed",
            token_ids_T=np.array(answer.prompt_ids + answer.token_ids, np.int32),
            codes_T=np.repeat(np.array([Code.PROMPT, Code.REHEARSED], np.int8), lengths),
            behaviour_logprobs_T=np.append(prompt, np.array(answer.logprobs, np.float32)),
            segments_T=np.repeat(np.array([0, 1], np.int32), lengths),
            segments=_SEGMENTS,
            advantage=self.weight,
            policy_tokens=len(answer.token_ids),
            agent_tokens=0,
        )


NOTHING = Rehearsal()


def rehearsal_of(experiment: Experiment, folder: RunFolder, tokenizer: Tokenizer) -> Rehearsal:
    """The rehearsal of a run that has its answers; an empty one where none is configured.

    Raises:
        ConfigError: the run has no answers, or they are of another tokenizer.
    """
    settings = experiment.rehearsal
    if settings.prompts is None:
        return NOTHING
    answers = read_answers(folder.rehearsal)
    for one in answers:
        if tuple(tokenizer.encode_prompt(one.prompt)) != one.prompt_ids:
            raise ConfigError(
                f"answers in {folder.rehearsal}: got {one.prompt!r} in other token ids than the policy's tokenizer gives it, "
                "allowed those of a policy with the same tokenizer and chat template"
            )
    return Rehearsal(answers, settings.rows, settings.weight, derive_seed(experiment.seed, "rehearsal"))


def prepare(experiment: Experiment, folder: RunFolder, policy: Policy, note: Note) -> None:
    """Sees to it that a run has the answers that it rehearses. A resumed run has them.

    Raises:
        ConfigError, LoadError: see `read_prompts` and `read_answers`.
    """
    name = experiment.rehearsal.prompts
    if name is None or folder.rehearsal.is_file():
        return
    prompts = read_prompts(name)
    before = RunFolder(Path(experiment.policy.model).parent).rehearsal
    answers = read_answers(before) if before.is_file() else []
    if [answer.prompt for answer in answers] == prompts:
        note(len(prompts), len(prompts), f"answers to rehearse, of {before.parent}")
    else:
        answers = _ask(experiment, prompts, policy, note)
    lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    write_text(folder.rehearsal, "".join(lines))


def read_prompts(name: str) -> list[str]:
    """The prompts that `rehearsal.prompts` names: lines of a text file, or what a function returns.

    Raises:
        ConfigError: there are none.
        LoadError: see `aipo.util.imports.load`.
    """
    where = f"rehearsal.prompts={name}"
    try:
        prompts = (
            instantiate(load(name), {}, where)
            if ":" in name
            else [line for line in Path(name).read_text(encoding="utf-8").splitlines() if line.strip()]
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}: got {type(error).__name__}: {error}, allowed a text file with a prompt in each line, or "
            "'module:function' that returns prompts"
        ) from error
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise ConfigError(f"{where}: got no prompts, allowed a list of at least one text")
    return prompts


def read_answers(file: Path) -> list[Answer]:
    """The answers that a run has kept.

    Raises:
        ConfigError: there is no such file, or it is another one.
    """
    try:
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()
        ]
        answers = [
            Answer(
                str(line["prompt"]),
                str(line["answer"]),
                tuple(line["prompt_ids"]),
                tuple(line["token_ids"]),
                tuple(line["logprobs"]),
            )
            for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"answers to rehearse: got {file} ({type(error).__name__}: {error}), allowed what a run with "
            "rehearsal.prompts has written"
        ) from error
    lengths = [(len(answer.prompt_ids), len(answer.token_ids), len(answer.logprobs)) for answer in answers]
    if not lengths or not all(prompt and tokens == logprobs > 0 for prompt, tokens, logprobs in lengths):
        raise ConfigError(
            f"answers to rehearse: got {file} with none, or one without tokens or their log-probs, allowed at least one"
        )
    return answers


def _ask(experiment: Experiment, prompts: Sequence[str], policy: Policy, note: Note) -> list[Answer]:
    settings, tokenizer = experiment.rehearsal, policy.tokenizer
    asked = [(prompt, tokenizer.encode_prompt(prompt)) for prompt in prompts]
    done = 0

    async def answer(number: int, prompt: str, prompt_ids: list[int]) -> Answer:
        nonlocal done
        completion = await policy.sample(
            SampleRequest(
                np.array(prompt_ids, np.int32),
                max_tokens=settings.max_tokens,
                temperature=experiment.rollout.temperature,
                seed=derive_seed(experiment.seed, "rehearsal", number),
            )
        )
        done += 1
        note(done, len(asked), "answers to rehearse, of the policy before training")
        token_ids = tuple(map(int, completion.token_ids))
        logprobs = tuple(map(float, completion.logprobs))
        return Answer(prompt, tokenizer.decode(token_ids), tuple(prompt_ids), token_ids, logprobs)

    async def all_of_them() -> list[Answer]:
        return await asyncio.gather(*(answer(number, *one) for number, one in enumerate(asked)))

    return LOOP.run(all_of_them())
