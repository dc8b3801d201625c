"""A real run, in seconds, of a LangGraph agent that knows nothing of rollouts: random weights, and a reward that anybody
can get."""

from pathlib import Path

from transformers import AutoTokenizer

from aipo.config.build import Experiment, load_experiment
from aipo.policies.tokenizer import HFTokenizer
from kit.chat_agents import tool_tokenizer
from kit.tiny import qwen2

CODE = '''
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from aipo.rollout import policy_chat
from envs.miniature import Miniature


class Parity(Miniature):
    """Rewards an even number of characters."""

    def score(self, task, text):
        return {"correct": float(len(text) % 2 == 0)}


def my_agent():
    """The policy thinks, thinks again, and is judged by a sub-graph with a history of its own."""
    model = policy_chat(max_tokens=8)

    async def think(state: MessagesState):
        return {"messages": [await model.ainvoke([SystemMessage("Be short."), *state["messages"]])]}

    def again(state: MessagesState):
        told = HumanMessage("Sure?")
        return {"messages": [told, model.invoke([SystemMessage("Be short."), *state["messages"], told])]}

    async def judge(state: MessagesState):
        return {"messages": [await model.ainvoke([HumanMessage(f"Judge: {len(state['messages'])}")])]}

    critic = StateGraph(MessagesState)
    critic.add_node("judge", judge)
    critic.add_edge(START, "judge")
    graph = StateGraph(MessagesState)
    nodes = {"think": think, "again": again, "critic": critic.compile()}
    for last, (name, node) in zip([START, *nodes], nodes.items()):
        graph.add_node(name, node)
        graph.add_edge(last, name)
    graph.add_edge("critic", END)
    return graph.compile()
'''


def model_folder(folder: Path) -> Path:
    """Random weights, with the tokenizer of `tool_tokenizer`."""
    words = tool_tokenizer()
    words.inner.save_pretrained(folder)
    for _ in range(2):  # as the tokenizer of a Qwen model it has one token more
        ends = {"pad_token_id": words.pad_id, "eos_token_id": words.eos_id, "bos_token_id": None}
        qwen2(len(words), max_position_embeddings=512, **ends).save_pretrained(folder)
        words = HFTokenizer(AutoTokenizer.from_pretrained(folder))
    return folder


def config(folder: Path, *overrides: str) -> Experiment:
    """Two steps of 2 groups of 4, of preset `agent`."""
    code = folder / "my.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text(CODE)
    if not (folder / "start").exists():
        model_folder(folder / "start")
    return load_experiment("agent", [*settings(folder), *overrides])


def settings(folder: Path) -> list[str]:
    """What a user writes."""
    return [
        f"run.out={folder / 'run'}",
        f"policy={{model: {folder / 'start'}}}",
        f"graph.name={folder / 'my.py'}:my_agent",
        f"env.name={folder / 'my.py'}:Parity",
        "train.tasks_per_step=2",
        "train.group_size=4",
        "train.minibatches=1",
        "train.passes=1",
        "train.steps=2",
        "train.learning_rate=1e-2",
        "rollout.max_tokens=100",
        "evaluate.samples=2",
        "evaluate.ks=[1]",
        "run.threads=1",
    ]
