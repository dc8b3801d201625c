"""Settings that are allowed and do not belong together, such as a preset's agents beside another environment.

`aipo doctor` and `aipo train` warn of them.
"""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aipo.config.build import Experiment
from aipo.config.layers import plain_name
from aipo.util.imports import fingerprint, load

if TYPE_CHECKING:
    from aipo.policies.tokenizer import HFTokenizer

_MINIATURE = "envs.miniature"
_RULES = re.compile(r"(envs\.(?:miniature|almanac|gsm8k))\.agents:")
"""Agents that ship and follow rules; what is caught is the environment whose they are."""
_KNOWING = (
    "envs.miniature.agents:knowledge",
    "envs.almanac.agents:knowledge",
    "envs.almanac.agents:reasoning",
)
"""Rules that know what the environment's seed has drawn."""
_PROMPTS = {"miniature.md": _MINIATURE, "almanac.md": "envs.almanac"}
"""Prompts for the policy that ask for the answer as one environment reads it."""
_BOXED = ("policy.md", "gsm8k.md")
_REFERENCE = "aipo.rollout.reference_chat:reference"
_SMALL = "`extends: small` has settings for a model of yours"
_AGENTS = f"agents.NAME.model={_REFERENCE} (the model itself), or langchain_openai:ChatOpenAI for a server"
_SHORT_REPLY = 64
_RATES = (
    (400_000_000, 1e-7, 2e-5),
    (100_000_000, 1e-7, 3e-4),
    (10_000_000, 1e-6, 3e-4),
    (0, 1e-5, 1e-2),
)
"""From so many parameters on: the lowest and the highest usual learning rate, if all weights are trained. Published
reinforcement learning of 0.5 to 70 billion parameters uses 1e-6, supervised training up to 2e-5. SmolLM2 of 135 and 360
million parameters was trained with 1e-3 on demonstrations and 1e-6 on preferences (alignment-handbook, recipes/smollm2)."""
_LORA = 10
"""The best rate of an adapter is about ten times that of all weights (Schulman et al., LoRA Without Regret, 2025)."""
_CHAT_TOKENS = (
    *("<|im_start|>", "<|start_header_id|>", "[INST]", "<start_of_turn>", "<|turn>", "<|start|>"),
    *("<|user|>", "<|assistant|>", "<|User|>", "<｜User｜>", "<|START_OF_TURN_TOKEN|>", "<|start_of_role|>"),
)


class Misfit(NamedTuple):
    """What does not belong together, and what to do; without advice it does."""

    what: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}: {self.found}; {self.advice}"


def misfits(experiment: Experiment) -> Iterator[Misfit]:
    """What the configuration tells by itself. The graph's files have to be there.

    Raises:
        AipoError: the environment or a file of an agent cannot be loaded.
    """
    yield from _of_another_env(experiment)
    yield from _of_another_seed(experiment)
    yield from _of_same_agents(experiment)
    short = [
        name
        for name, agent in experiment.agents.items()
        if agent.max_tokens < _SHORT_REPLY and agent.model and not _rules_of(agent.model)
    ]
    if short:
        found = f"replies of {', '.join(short)} are cut after fewer than {_SHORT_REPLY} tokens"
        yield Misfit("agents", found, "agents.NAME.max_tokens, for a language model at least 128")


def chat_misfits(experiment: Experiment, tokenizer: "HFTokenizer") -> Iterator[Misfit]:
    """What the policy's chat template tells besides."""
    if not tokenizer.inner.chat_template:
        plain = [
            name
            for name, agent in experiment.agents.items()
            if agent.model == _REFERENCE and agent.options.get("model") is None
        ]
        if plain:
            found = f"{', '.join(plain)}: the model at its start, which has no chat template, so that it continues plain text"
            yield Misfit("agents", found, "agents.NAME.options.model=FOLDER of a chat model, or a server")
    elif _is_of(experiment, _MINIATURE):
        found = f"{experiment.env_name} is a table to test methods with, and the model has a chat template"
        yield Misfit("environment", found, f"env.name and graph.options.prompt for tasks of yours; {_SMALL}")


def warnings(
    experiment: Experiment, tokenizer: "HFTokenizer", parameters: int, *, supervised: bool = False
) -> Iterator[str]:
    """All of it, a line each.

    Args:
        parameters: how many the network has, frozen ones included.
        supervised: the learning rate is that of supervised training, for which this knows no usual ones.
    """
    yield from map(str, misfits(experiment))
    yield from map(str, chat_misfits(experiment, tokenizer))
    if not tokenizer.inner.chat_template and (lack := check_no_template(tokenizer)).advice:
        yield str(lack)
    if not supervised and (rate := check_rate(experiment, parameters)).advice:
        yield str(rate)


def check_rate(experiment: Experiment, parameters: int) -> Misfit:
    """Is `train.learning_rate` one that a model of this size usually takes? Without advice it is."""
    _, low, high = next(row for row in _RATES if parameters >= row[0])
    adapter = experiment.policy.lora is not None
    low, high = (low * _LORA, high * _LORA) if adapter else (low, high)
    rate = experiment.train.learning_rate
    trained = "an adapter" if adapter else "all weights"
    found = (
        f"{rate:g}; usual are {low:g} to {high:g} for {trained} of {parameters / 1e6:,.3g} million parameters"
    )
    is_usual = low * 0.999 <= rate <= high * 1.001
    return Misfit("learning rate", found, "" if is_usual else f"train.learning_rate; {_SMALL}")


def check_no_template(tokenizer: "HFTokenizer") -> Misfit:
    """Does a tokenizer without a chat template know tokens that only chats have? Without advice it does not."""
    texts = {str(token.content) for token in tokenizer.inner.added_tokens_decoder.values()}
    advice = "" if texts.isdisjoint(_CHAT_TOKENS) else "a chat model's tokenizer with its chat_template"
    return Misfit("chat template", "there is none: prompts are plain text", advice)


def _of_another_env(experiment: Experiment) -> Iterator[Misfit]:
    """Agents, prompt and policy that are for another environment."""
    env, prompt = experiment.env_name, _prompt_of(experiment)
    rules = {name: _rules_of(agent.model) for name, agent in experiment.agents.items()}
    for other in dict.fromkeys(room for room in rules.values() if room and not _is_of(experiment, room)):
        names = ", ".join(name for name, room in rules.items() if room == other)
        found = f"{names}: rules of {other}, which know nothing of {env}"
        yield Misfit("agents", found, f"{_AGENTS}; {_SMALL}")
    own = next((name for name, room in _PROMPTS.items() if _is_of(experiment, room)), None)
    if prompt != own and prompt in _PROMPTS:
        found = f"the prompt is {prompt}, which does not say what {env} asks for"
        yield Misfit("policy prompt", found, f"graph.options.prompt={own or 'policy.md'}, or your file")
    if own and prompt in _BOXED:
        found = f"{prompt} asks for a \\boxed{{}} answer, and {env} reads no box"
        yield Misfit("policy prompt", found, f"graph.options.prompt={own}, or another environment")
    policy = experiment.policy.model
    if plain_name(policy).startswith(f"{_MINIATURE}.") and not _is_of(experiment, _MINIATURE):
        found = f"{policy} can read and write the miniature only, and the tasks are of {env}"
        yield Misfit("policy", found, f"policy.model=FOLDER or hub name; {_SMALL}")


def _of_another_seed(experiment: Experiment) -> Iterator[Misfit]:
    drawn = experiment.settings["env"]["options"].get("seed", experiment.seed)
    for name, agent in experiment.agents.items():
        seed = agent.options.get("seed", experiment.seed)
        if plain_name(agent.model or "") in _KNOWING and seed != drawn:
            found = f"{name} knows what seed {seed} draws, and the tasks are drawn with seed {drawn}"
            yield Misfit("agents", found, f"agents.{name}.options.seed={drawn}, or no seed but run.seed")


def _of_same_agents(experiment: Experiment) -> Iterator[Misfit]:
    for (one, first), (other, second) in combinations(experiment.agents.items(), 2):
        same_model = first.model is not None and (first.model, first.options) == (
            second.model,
            second.options,
        )
        if not same_model and (first.model or second.model):
            continue
        rules = _rules_of(first.model)
        if rules or _files(first.graph, first.prompt, one) == _files(second.graph, second.prompt, other):
            found = f"{one} and {other} are the same " + ("rules" if rules else "graph, prompt and model")
            yield Misfit("agents", found, f"agents.{other}=null leaves it out; else another model or prompt")


def _files(graph: str, prompt: Path | None, name: str) -> tuple[str, str]:
    """An agent's graph and the fingerprint of its prompt."""
    loaded = load(graph)
    return plain_name(loaded.name), fingerprint(prompt or loaded.file.parent / "prompts" / f"{name}.md")


def _rules_of(model: str | None) -> str | None:
    """The environment that ships whose rules an agent follows; None if its model follows none."""
    match = _RULES.match(plain_name(model or ""))
    return match[1] if match else None


def _is_of(experiment: Experiment, room: str) -> bool:
    """Is the environment that of `room`, or one that builds on it?"""
    return any(f"{base.__module__}.".startswith(f"{room}.") for base in type(experiment.env).__mro__)


def _prompt_of(experiment: Experiment) -> str:
    """The name of the policy's prompt file, as far as the graph's options say it."""
    ships = plain_name(experiment.graph_name) in ("graphs.consult:consult", "graphs.solo:solo")
    return Path(str(experiment.graph_options.get("prompt", "policy.md" if ships else ""))).name
