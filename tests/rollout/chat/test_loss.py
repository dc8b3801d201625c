"""A rollout through the chat model has the loss of the same rollout that a graph writes to RolloutState."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.runtime import Runtime

from aipo.method.batch import TokenTotals, collate, denominators
from aipo.method.loss import LossInputs, aipo_loss
from aipo.method.rows import rows_of
from aipo.policies import Sampling
from aipo.policies.logprobs import token_logprobs
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout import RolloutContext, RolloutState
from aipo.trace import Role, StopReason, Trace, segment
from kit import engines, tiny
from kit.chat_agents import add, calculator, calling, chat_run, tool_tokenizer

CALL, ANSWER = calling("add", '{"a": 1, "b": 41}'), "42"
TOLD = "\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


async def asks(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": runtime.context.task.prompt},
    ]
    text = tool_tokenizer().chat_text(messages, tools=[convert_to_openai_tool(add)])
    return {"segments": [segment(Role.PROMPT, "prompt", tool_tokenizer().encode(text, control=True))]}


async def samples(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    piece, finish = await runtime.context.sample(state["segments"])
    return {"segments": [piece], "stops": {"policy": StopReason(finish)}}


async def told(state: RolloutState) -> dict[str, Any]:
    return {"segments": [segment(Role.ENV, "add", tool_tokenizer().encode(TOLD, control=True))]}


async def scores(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    return {"reward_parts": {"policy": await runtime.context.score(ANSWER)}}


def loss_of(traces: Sequence[Trace]) -> float:
    network, method = tiny.chat_network(tool_tokenizer()), tiny.method(objective="grpo")
    rows = [row for trace in traces for row in rows_of(replace(trace, advantage=0.75))]
    totals = TokenTotals.of(rows)
    of_rows = denominators(rows, method, totals, minibatches=1, max_completion_length=500)
    batch = collate(rows, of_rows, pad_id=tool_tokenizer().pad_id)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].shape[1]
    with torch.no_grad():
        logits = network(input_ids=ids, attention_mask=mask, logits_to_keep=width + 1).logits
    logprobs, entropies = token_logprobs(
        logits[:, :-1], batch["completion_ids"], temperature=1.0, forbidden_B_F=None
    )
    return float(aipo_loss(LossInputs.of(batch, logprobs, entropies, fresh=True), method).loss)


def test_the_loss_is_that_of_the_same_rollout_in_rollout_state():
    [through_chat] = chat_run(calculator(), [CALL, ANSWER])
    policies = {"policy": ScriptedPolicy(tool_tokenizer(), [CALL, ANSWER])}
    graph = engines.chain(ask=asks, call=samples, tell=told, answer=samples, score=scores)
    [written] = engines.run(graph, policies=policies, sampling=Sampling(max_tokens=2000))
    assert (through_chat.error, written.error) == (None, None)
    assert np.array_equal(through_chat.token_ids, written.token_ids)
    loss = loss_of([through_chat])
    assert abs(loss) > 1e-3
    assert loss == pytest.approx(loss_of([written]), abs=1e-6)
