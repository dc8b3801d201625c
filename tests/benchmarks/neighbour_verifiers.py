"""The job in `verifiers`: an agent with a train client, whose harness runs its loop in this process.

What ships with it starts a program for every rollout; the contract of `Harness.launch` allows a loop in process, as
long as each model call goes through the interception server. That is the cheaper of the two, and it is
measured here. Run by the Python of an environment that has `verifiers`.
"""

import asyncio
import json
from importlib.metadata import version
from typing import Any

import httpx
import verifiers.v1 as vf
from neighbour_job import FACT, MODEL, QUESTION, TOKENS, TOOL, TURNS, cpu, tell
from neighbour_job import given as arguments
from renderers import Qwen3RendererConfig
from verifiers.v1.utils import loaders

IN_FLIGHT = 128


class LoopConfig(vf.HarnessConfig):
    pass


class Loop(vf.Harness[LoopConfig]):
    """Asks, looks up, asks again."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False
    client: httpx.AsyncClient

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: Any,
        data: Any,
        **_: Any,
    ) -> vf.ProgramResult:
        messages: list[dict[str, Any]] = [{"role": "user", "content": data.prompt}]
        while True:
            body = {"model": ctx.model, "messages": messages, "tools": [TOOL]}
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await Loop.client.post(f"{endpoint}/chat/completions", json=body, headers=headers)
            answer.raise_for_status()
            message = answer.json()["choices"][0]["message"]
            messages.append(message)
            calls = message.get("tool_calls") or []
            if not calls:
                return vf.ProgramResult(exit_code=0, stdout="", stderr="")
            for call in calls:
                json.loads(call["function"]["arguments"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": FACT})


async def measure(url: str, folder: str, rollouts: int, rounds: int) -> list[float]:
    client = vf.TrainClientConfig(
        base_url=f"{url}/v1", api_key_var="NO_KEY", renderer=Qwen3RendererConfig(), renderer_model_name=folder
    )
    config = vf.AgentConfig(
        model=MODEL, client=client, runtime=vf.SubprocessConfig(), harness=LoopConfig(id="null")
    )
    taken = []
    async with vf.Agent(config) as agent:
        for _ in range(rounds + 1):
            left = iter([vf.Task(vf.TaskData(prompt=QUESTION, idx=i)) for i in range(rollouts)])
            traces: list[Any] = []

            async def work(left: Any = left, traces: list[Any] = traces) -> None:
                for task in left:
                    traces.append(await agent.run(task))

            began = cpu()
            await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
            taken.append(1e3 * (cpu() - began) / rollouts)
            for trace in traces:
                assert trace.ok, trace.errors
                assert sum(map(sum, (node.mask for node in trace.nodes if node.sampled))) == TURNS * TOKENS
    return taken[1:]


async def main() -> None:
    given = arguments()
    loaders.harness_class = lambda name: Loop
    loaders.harness_config_type = lambda name: LoopConfig
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=IN_FLIGHT)) as Loop.client:
        taken = await measure(given.url, given.folder, given.rollouts, given.rounds)
    tell(taken, f"verifiers {version('verifiers')}: Agent.run, train client, harness in process")


if __name__ == "__main__":
    asyncio.run(main())
