"""Settings that are allowed and do not belong together: each is warned of, and the presets as they ship are not."""

from pathlib import Path

import pytest

from aipo.config import presets
from aipo.config.build import Experiment, load_experiment
from aipo.config.fit import chat_misfits, check_rate, misfits, warnings
from aipo.policies.tokenizer import HFTokenizer
from envs.miniature.model import tokenizer as miniature_tokenizer
from kit.tiny import chat_tokenizer

MATHEMATICS = [
    "env.name=envs.math:Math",
    "env.options={splits: {train: FOLDER/items.jsonl}}",
    "env.mixture={train: 1}",
]
REFERENCE = "aipo.rollout.reference_chat:reference"
OTHERS = [f"agents.{name}.model={REFERENCE}" for name in ("verify", "knowledge", "reasoning")]
POLICY_PROMPT = "graph.options.prompt=policy.md"
LONG = [f"agents.{name}.max_tokens=256" for name in ("verify", "knowledge", "reasoning")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text("## check\nTask: check\nClaim: {{ claim }}\n")
    (tmp_path / "mine.py").write_text("from envs.miniature import Miniature\nclass Mine(Miniature): ...\n")
    return tmp_path


def configured(preset: str, folder: Path, *overrides: str) -> Experiment:
    return load_experiment(preset, [override.replace("FOLDER", str(folder)) for override in overrides])


@pytest.mark.parametrize("name", presets())
def test_presets_fit_as_they_ship(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_AGENT_KEY", "none")
    assert list(misfits(load_experiment(name))) == []


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (
            [*MATHEMATICS, "policy.model=FOLDER"],
            [
                "agents: verify, knowledge, reasoning: rules of envs.miniature, which know nothing of envs.math:Math",
                "policy prompt: the prompt is miniature.md, which does not say what envs.math:Math asks for",
            ],
        ),
        (
            [*MATHEMATICS, *OTHERS, *LONG, POLICY_PROMPT],
            ["policy: envs.miniature.model:cold_start can read and write the miniature"],
        ),
        ([*MATHEMATICS, *OTHERS, *LONG, POLICY_PROMPT, "policy.model=FOLDER"], []),
        (OTHERS, ["agents: replies of verify, knowledge, reasoning are cut after fewer than 64 tokens"]),
        ([POLICY_PROMPT], ["policy prompt: policy.md asks for a \\boxed{} answer"]),
        (
            ["agents.knowledge.model=envs.miniature.agents:verify"],
            ["agents: verify and knowledge are the same rules"],
        ),
        (
            [
                *(f"agents.{name}.model={REFERENCE}" for name in ("verify", "knowledge")),
                *LONG,
                "agents.knowledge.graph=graphs/verify.py:verify",
                "agents.verify.prompt=FOLDER/one.md",
                "agents.knowledge.prompt=FOLDER/two.md",
            ],
            ["agents: verify and knowledge are the same graph, prompt and model"],
        ),
        ([*(f"agents.{name}.model=envs.mine.agents:model" for name in ("verify", "knowledge", "reasoning")), *LONG], []),
        (["run.seed=3"], []),
        (["run.seed=3", "env.options.seed=0"], ["agents: knowledge knows what seed 3 draws, and the tasks are drawn with seed 0"]),
        (["run.seed=3", "env.options.seed=0", "agents.knowledge.options.seed=0"], []),
        (["env.name=FOLDER/mine.py:Mine", "env.mixture={easy_train: 1}", "graph.options.prompt=miniature.md"], []),
    ],
)  # fmt: skip
def test_what_does_not_belong_together(overrides: list[str], found: list[str], folder: Path) -> None:
    lines = [str(one) for one in misfits(configured("aipo_distil", folder, *overrides))]
    assert [line[: len(start)] for line, start in zip(lines, found, strict=True)] == found


TUTORED = "env.options={splits: {train: FOLDER/solved.jsonl, test: FOLDER/solved.jsonl}}"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ([TUTORED, "policy.model=FOLDER", "agents.verify.max_tokens=32"], []),
        ([TUTORED, POLICY_PROMPT], []),
        (
            [TUTORED, "graph.options.prompt=miniature.md"],
            ["policy prompt: the prompt is miniature.md, which does not say what envs.gsm8k:GSM8K asks for"],
        ),
        (
            [TUTORED, f"agents.verify.model={REFERENCE}", "agents.verify.max_tokens=32"],
            ["agents: replies of verify are cut after fewer than 64 tokens"],
        ),
        (
            [*MATHEMATICS, f"agents.verify.model={REFERENCE}"],
            ["agents: knowledge, reasoning: rules of envs.gsm8k, which know nothing of envs.math:Math"],
        ),
        (
            ["env.name=envs.miniature:Miniature", "env.mixture={hard: 1}", "agents.verify.model=envs.miniature.agents:verify"],
            [
                "agents: knowledge, reasoning: rules of envs.gsm8k, which know nothing of envs.miniature:Miniature",
                "policy prompt: gsm8k.md asks for a \\boxed{} answer, and envs.miniature:Miniature reads no box",
            ],
        ),
    ],
)  # fmt: skip
def test_tutors_and_what_belongs_to_them(overrides: list[str], found: list[str], folder: Path) -> None:
    (folder / "solved.jsonl").write_text('{"question": "1+1?", "answer": "1+1=2\\n#### 2"}\n')
    lines = [str(one) for one in misfits(configured("gsm8k-tutor", folder, *overrides))]
    assert [line[: len(start)] for line, start in zip(lines, found, strict=True)] == found


@pytest.mark.parametrize(
    ("preset", "overrides", "parameters", "usual"),
    [
        ("aipo_distil", [], 200_000, True),  # 5e-4
        ("aipo_distil", ["policy.model=FOLDER"], 494_000_000, False),
        ("aipo_distil", ["policy.model=FOLDER", "policy.lora={}"], 494_000_000, False),
        ("small", [], 494_000_000, True),  # 1e-6
        ("small", [], 200_000, False),
        ("small", ["policy.lora={}", "train.learning_rate=1.0e-5"], 494_000_000, True),
        ("small", ["train.learning_rate=2.0e-5"], 494_000_000, True),
        ("small", ["train.learning_rate=2.1e-5"], 494_000_000, False),
        ("small", ["train.learning_rate=1.0e-8"], 7_000_000_000, False),
        ("small", ["train.learning_rate=1.0e-4"], 135_000_000, True),
        ("aipo_distil", [], 135_000_000, False),
        ("small", ["train.learning_rate=3.0e-4"], 30_000_000, True),
    ],
)
def test_the_learning_rate_for_a_model_of_this_size(
    preset: str, overrides: list[str], parameters: int, usual: bool, folder: Path
) -> None:
    rate = check_rate(configured(preset, folder, *overrides), parameters)
    assert (rate.advice == "") is usual


def test_the_words_about_a_learning_rate() -> None:
    rate = check_rate(load_experiment("aipo_distil"), 494_000_000)
    assert rate.found == "0.0005; usual are 1e-07 to 2e-05 for all weights of 494 million parameters"
    assert rate.advice == "train.learning_rate; `extends: small` has settings for a model of yours"


def test_a_chat_template_and_the_tasks_of_the_miniature() -> None:
    [one] = chat_misfits(load_experiment("aipo_distil"), chat_tokenizer())
    assert one.what == "environment" and "envs.miniature:Miniature is a table to test methods" in one.found
    assert not list(chat_misfits(load_experiment("aipo_distil"), HFTokenizer(miniature_tokenizer())))
    assert not list(chat_misfits(load_experiment("small"), chat_tokenizer()))


def test_a_chat_model_without_a_chat_template(folder: Path) -> None:
    experiment = configured(
        "small", folder, "env.options.splits={train: FOLDER/items.jsonl, test: FOLDER/items.jsonl}"
    )
    lines = [*warnings(experiment, chat_tokenizer(template=None), 494_000_000)]
    assert [line.partition(":")[0] for line in lines] == ["agents", "chat template"]
    assert lines[0].startswith(
        "agents: verify, knowledge, reasoning: the model at its start, which has no chat template"
    )
    served = configured("small", folder, *(f"agents.{name}.options.model=x" for name in experiment.agents))
    assert [*warnings(served, chat_tokenizer(), 200_000)] == [
        "learning rate: 1e-06; usual are 1e-05 to 0.01 for all weights of 0.2 million parameters; train.learning_rate; "
        "`extends: small` has settings for a model of yours"
    ]
