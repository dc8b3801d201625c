"""The job in our engine: the consult graph, an agent of one node, one process."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from neighbour_job import FACT, QUESTION, TOKENS, TOOL, TURNS, cpu, tell
from neighbour_job import given as arguments

from aipo import __version__ as version
from aipo.config.build import Experiment
from aipo.config.load import validate
from aipo.rollout.agent import AgentSpec, AgentState
from aipo.rollout.context import RolloutContext
from aipo.rollout.engine import freeze_gc
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode, Role
from aipo.util.event_loop import LOOP

HERE = Path(__file__)
IN_FLIGHT = 128
PROMPT = "## assisted\n{{ question }}\n\n## solo\n{{ question }}\n"


class Table:
    """The environment: one question."""

    def splits(self) -> tuple[str, ...]:
        return ("all",)

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(task_id="0", prompt=QUESTION, answer="42", split=split)]

    def score(self, task: Task, text: str) -> dict[str, float]:
        return {"correct": float("42" in text)}


def lookup(spec: AgentSpec) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Looks the word up."""

    async def answer(state: AgentState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        return {"reply": FACT}

    graph = StateGraph(AgentState, context_schema=RolloutContext)
    graph.add_node("answer", answer, **spec.node)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile()


def main() -> None:
    given = arguments()
    prompt = Path(given.folder) / "neighbours.md"
    prompt.write_text(PROMPT, encoding="utf-8")
    settings = validate(
        {
            "env": {"name": f"{HERE}:Table", "mixture": {"all": 1.0}},
            "policy": {"model": given.folder, "engine": "vllm", "vllm": {"servers": [given.url]}},
            "graph": {"options": {"prompt": str(prompt)}},
            "agents": {"lookup": {"graph": f"{HERE}:lookup", "prompt": str(prompt)}},
            "rollout": {"max_tokens": 4 * TURNS * TOKENS, "concurrency": IN_FLIGHT},
            "evaluate": {"splits": ["all"]},
        },
        "the benchmark",
    )
    experiment = Experiment(settings)
    words = experiment.tokenizer(given.folder)
    policy = experiment.served_policy(words, len(words))
    engine = experiment.engine(policy, run_id="bench")
    asked: Any = [{"role": "user", "content": QUESTION}]
    theirs = words.inner.apply_chat_template(
        asked, tools=[TOOL], add_generation_prompt=True, return_dict=False
    )
    # As long a prompt as the others have, whose template lists the tools.
    [task] = engine.env.tasks("all")
    task = replace(task, prompt=QUESTION + "." * (len(theirs) - len(words.encode_prompt(QUESTION))))
    freeze_gc()
    taken = []
    for round_ in range(given.rounds + 1):
        specs = [
            RolloutSpec(task=task, mode=Mode.ASSISTED, group_id=f"{round_}-{i}", index=0, step=0, seed=i)
            for i in range(given.rollouts)
        ]
        began = cpu()
        traces = engine.run_sync(specs, lambda trace: None)
        taken.append(1e3 * (cpu() - began) / given.rollouts)
        for trace in traces:
            assert len(trace.segments[0]) == len(theirs)
            assert not trace.failed and len(trace.consults) == TURNS - 1, trace.error
            assert trace.count(Role.POLICY) == TURNS * TOKENS and trace.reward == 1.0
    LOOP.run(policy.aclose())
    tell(taken[1:], f"AIPO {version}: RolloutEngine.run, consult graph")


if __name__ == "__main__":
    main()
