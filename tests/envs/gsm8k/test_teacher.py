"""A policy that has learned to ask: what it writes, and that the real graph and the real tutors make it right."""

import asyncio

import pytest

from aipo.config.build import Experiment, load_experiment
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.rollout import Task
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode, Role, Trace
from envs.gsm8k import GSM8K
from graphs.solo import PROMPTS, policy_prompt
from kit.word_problems import PROBLEMS, write_problems

AGENTS = ("verify", "knowledge", "reasoning")
TAGS = [f"<{kind}:{name}>" for name in AGENTS for kind in ("consult", "feedback")] + [
    "</consult>",
    "</feedback>",
]
WRITTEN = {
    0: [
        "<consult:knowledge>Mara buys how many boxes of pens.</consult>",
        "<feedback:knowledge>Mara buys 4 boxes of pens.</feedback>",
        "Mara buys 4 boxes of pens.\nShe buys 4 * 12 = 48 pens.\nShe can use 48 - 6 = 42 pens."
        "<consult:verify>48-6=42</consult>",
        "<feedback:verify>right</feedback>",
        "\n\n\\boxed{42}",
    ],
    1: [
        "<consult:reasoning>What is the next step?</consult>",
        "<feedback:reasoning>Together that is 12,500 + 1,300 = $13,800.</feedback>",
        "Together that is 12,500 + 1,300 = $13,800.\n<consult:reasoning>What is the next step?</consult>",
        "<feedback:reasoning>Work this out yourself: He still owes 13,800 / 2 = ?</feedback>",
        "He still owes 13,800 / 2 = $6,900.\n\n\\boxed{6,900}",
    ],
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The preset with questions of a file."""
    file = write_problems(tmp_path_factory.mktemp("items"))
    splits = f"env.options.splits={{train: {file}, test: {file}}}"
    return load_experiment(
        "gsm8k-tutor", [splits, "rollout.max_tokens=2000", *(f"agents.{n}.max_tokens=300" for n in AGENTS)]
    )


@pytest.fixture(scope="module")
def env(experiment: Experiment) -> GSM8K:
    assert isinstance(experiment.env, GSM8K)
    return experiment.env


@pytest.fixture(scope="module")
def traces(experiment: Experiment, env: GSM8K) -> list[Trace]:
    """One assisted rollout of each task, whose policy writes what the teacher does."""
    prompt = policy_prompt(PROMPTS / "gsm8k.md")
    tasks = {
        prompt.render("assisted", question=task.prompt, agents=AGENTS): task for task in env.tasks("train")
    }

    def script(context: str) -> str:
        task = next(task for text, task in tasks.items() if context.startswith(text))
        text = next(text for text in tasks if context.startswith(text))
        return env.turn(task, context.removeprefix(text))

    engine = experiment.engine(ScriptedPolicy(CharTokenizer(TAGS), script), run_id="r", forbidden_ids=())
    specs = [
        RolloutSpec(task=task, mode=Mode.ASSISTED, group_id=f"{i}", index=0, step=0, seed=i)
        for i, task in enumerate(env.tasks("train"))
    ]
    try:
        return [trace for spec in specs for trace in asyncio.run(engine.rollout(spec, lambda _: None)).traces]
    finally:
        env.close()


def texts(trace: Trace) -> list[str]:
    decode = CharTokenizer(TAGS).decode
    return [decode(s.token_ids).removesuffix("<eos>") for s in trace.segments if s.role is not Role.PROMPT]


@pytest.mark.parametrize("place", WRITTEN)
def test_what_the_policy_and_the_tutors_write(traces: list[Trace], place: int) -> None:
    assert texts(traces[place]) == WRITTEN[place]


def test_every_task_is_solved_with_every_tutor_asked(traces: list[Trace]) -> None:
    assert [trace.error for trace in traces] == [None] * len(PROBLEMS)
    assert [trace.reward for trace in traces] == [1.0] * len(PROBLEMS)
    consults = [consult for trace in traces for consult in trace.consults]
    assert {consult.agent for consult in consults} == set(AGENTS)
    assert [consult.fault for consult in consults] == [None] * len(consults)
    assert {len(trace.consults) for trace in traces} <= {1, 2}


def test_replies_are_copied_or_carried_out(traces: list[Trace]) -> None:
    for trace in traces:
        written = texts(trace)
        for request, reply, behind in zip(written, written[1:], written[2:], strict=False):
            if "<feedback:knowledge>" in reply or (
                "<feedback:reasoning>" in reply and "yourself" not in reply
            ):
                said = reply.partition(">")[2].removesuffix("</feedback>")
                assert behind.startswith(f"{said}\n")
            if "<feedback:verify>" in reply:
                assert reply == "<feedback:verify>right</feedback>" and "=" in request


def test_without_requests_it_is_the_demonstration_and_facts_of_the_question(
    env: GSM8K, traces: list[Trace]
) -> None:
    for task, trace in zip(env.tasks("train"), traces, strict=True):
        own = "".join(text.partition("<consult:")[0] for text in texts(trace) if "<feedback:" not in text)
        facts = set(env.solution(task.prompt).facts)
        assert "\n".join(line for line in own.split("\n") if line not in facts) == env.demonstration(task)


def test_a_notice_is_no_reply(env: GSM8K) -> None:
    task: Task = env.tasks("train")[1]
    first = WRITTEN[1][0]
    notice = "<notice>Malformed. Write <consult:NAME>request</consult>.</notice>"
    assert env.turn(task, f"{first}{notice}") == WRITTEN[1][2]
