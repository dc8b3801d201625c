"""`aipo doctor`: is everything that a run needs there, and is it exact? A line for each check, as it is made."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aipo.config.build import Experiment
from aipo.doctor.agents import check_agents
from aipo.doctor.check import Check, Status, attempt, failure
from aipo.doctor.disk import check_disk
from aipo.doctor.memory import Shape, check_memory, on_gpu, processes
from aipo.doctor.tokens import check_appending, check_prompt, check_tags, tags_of
from aipo.doctor.versions import check_versions
from aipo.errors import GraphError
from aipo.policies import Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Env
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode, Role
from aipo.util.event_loop import LOOP
from aipo.util.text import visible

if TYPE_CHECKING:
    from aipo.doctor.server import Served, Wanted
    from aipo.policies.tokenizer import HFTokenizer
    from aipo.policies.vllm.client import Server
    from aipo.policies.vllm.pool import ServerPool

_COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(experiment: Experiment, *, quick: bool, console: Console) -> bool:
    """Prints every check.

    Args:
        quick: leave out what needs the policy's weights in this process.

    Returns:
        Whether none failed.
    """
    counts: Counter[Status] = Counter()
    with console.status("checking"):
        for check in diagnose(experiment, quick=quick):
            counts[check.status] += 1
            console.print(line(check))
    console.print(f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail", highlight=False)
    return not counts["fail"]


def line(check: Check) -> Table:
    """One check for the terminal: what was found, and below it what to do."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=4, no_wrap=True)
    table.add_column(width=16, overflow="fold")
    table.add_column(overflow="fold")
    found = Text(visible(check.found))
    if check.advice:
        found.append(f"\n→ {visible(check.advice)}", style=_COLOURS[check.status])
    table.add_row(
        Text(check.status, style=f"bold {_COLOURS[check.status]}"), Text(visible(check.what)), found
    )
    return table


def diagnose(experiment: Experiment, *, quick: bool) -> Iterator[Check]:
    """The checks, from the cheap ones to those that load the policy."""
    yield from check_versions()
    env = attempt("environment", lambda: _checked_env(experiment))
    yield env if isinstance(env, Check) else Check("ok", "environment", _described(experiment))
    of_agents = list(check_agents(experiment))
    yield from of_agents
    graphs = attempt("graph", lambda: experiment.graphs)
    if not isinstance(graphs, Check):
        yield Check("ok", "graph", f"{experiment.graph_name} from {graphs.files['graph']}")
    elif graphs.found not in {check.found for check in of_agents}:
        yield graphs
    model = attempt("policy", experiment.build_model)
    if isinstance(model, Check):
        yield model
        return
    tokenizer = attempt("tokenizer", lambda: experiment.tokenizer(model))
    if isinstance(tokenizer, Check):
        yield tokenizer
        return
    yield Check(
        "ok",
        "tokenizer",
        f"of {model}, {len(tokenizer)} ids, end token {tokenizer.decode([tokenizer.eos_id])}",
    )
    yield from check_tags(experiment, tokenizer)
    prompts = {"plain": tokenizer.encode_prompt("17*23=?")}
    if not isinstance(env, Check) and not isinstance(graphs, Check):
        written = attempt("prompts", lambda: longest_prompts(experiment, tokenizer))
        if isinstance(written, Check):
            yield written
        else:
            prompts = written
    yield from check_prompt(tokenizer, prompts)
    longest = max(prompts.values(), key=len)
    yield check_appending(tokenizer, longest, tags_of(experiment))
    yield from _of_network(experiment, model, tokenizer, longest, quick=quick)


def longest_prompts(experiment: Experiment, tokenizer: "HFTokenizer") -> dict[str, list[int]]:
    """The longest prompt of each kind of rollout among the first step's, as the graph itself writes it: for a
    policy that has nothing to say.

    Raises:
        GraphError: such a rollout fails.
    """
    graphs, rollout = experiment.graphs, experiment.rollout
    engine = RolloutEngine(
        graph=graphs.graph,
        env=experiment.env,
        policies={"policy": ScriptedPolicy(tokenizer, lambda _: "")},
        chats=graphs.chats,
        sampling=Sampling(temperature=rollout.temperature, max_tokens=rollout.max_tokens),
        reward_weights=rollout.reward_weights,
        deadline=rollout.deadline,
        concurrency=rollout.concurrency,
        run_id="doctor",
        fingerprints=graphs.fingerprints,
    )
    modes = [
        Mode.SOLO,
        *([Mode.ASSISTED] if experiment.agents and experiment.method.assist_share_most > 0 else []),
    ]
    specs = [
        RolloutSpec(task=task, mode=mode, group_id=str(number), index=0, step=0, seed=number)
        for number, task in enumerate(experiment.tasks(0))
        for mode in modes
    ]
    found: dict[str, list[int]] = {}
    for trace in engine.run_sync(specs, lambda _: None):
        if trace.failed:
            raise GraphError(f"a rollout of task {trace.task_id!r}: got {trace.error}, allowed a scored one")
        ids = [int(i) for segment in trace.segments if segment.role is Role.PROMPT for i in segment.token_ids]
        found[trace.mode] = max(found.get(trace.mode, []), ids, key=len)
    return found


def _checked_env(experiment: Experiment) -> Env:
    experiment.check_env()
    _described(experiment)  # reads every split, of which one may not be there
    return experiment.env


def _described(experiment: Experiment) -> str:
    names = dict.fromkeys((*experiment.mixture, *experiment.evaluation.splits))
    return f"{experiment.env_name}: " + ", ".join(
        f"{name} ({len(experiment.env.tasks(name))} tasks)" for name in names
    )


def _of_network(
    experiment: Experiment, model: Path | str, tokenizer: "HFTokenizer", prompt: list[int], *, quick: bool
) -> Iterator[Check]:
    network = attempt("network", lambda: experiment.network_settings(model))
    if isinstance(network, Check):
        yield network
        return
    shape = attempt("network", lambda: Shape.of(network, experiment.policy.lora))
    if isinstance(shape, Check):
        yield shape
        return
    yield from check_memory(experiment, shape, len(prompt))
    if not quick and on_gpu(experiment) and processes(experiment, shape, len(prompt)) == 1:
        yield attempt("measured memory", lambda: _of_step(experiment, model, tokenizer, len(prompt)))
    yield from check_disk(experiment, shape)
    if experiment.policy.engine == "vllm":
        from aipo.doctor.server import Wanted

        tied = bool(network.get_text_config(decoder=True).tie_word_embeddings)
        wanted = Wanted(experiment=experiment, tokenizer=tokenizer, prompt=prompt, tied=tied)
        yield from _of_servers(wanted, model, quick=quick)
    elif not quick:
        yield _of_local(experiment, model, tokenizer, prompt)


def _of_step(experiment: Experiment, model: Path | str, tokenizer: "HFTokenizer", prompt: int) -> Check:
    import torch

    from aipo.doctor.step import check_step

    return check_step(experiment, model, tokenizer, prompt, torch.cuda)


def _of_local(
    experiment: Experiment, model: Path | str, tokenizer: "HFTokenizer", prompt: list[int]
) -> Check:
    from aipo.doctor.exactness import check_local
    from aipo.policies.local.policy import LocalPolicy

    def sampled() -> Check:
        network = experiment.network(model)
        return check_local(LocalPolicy(network, tokenizer), network, np.array(prompt, np.int32))

    return attempt("exactness", sampled)


def _of_servers(wanted: "Wanted", model: Path | str, *, quick: bool) -> Iterator[Check]:
    from aipo.policies.vllm.pool import ServerPool

    vllm = wanted.experiment.policy.vllm
    pool = attempt("server", lambda: ServerPool(vllm.servers, key=wanted.experiment.server_key))
    if isinstance(pool, Check):
        yield pool
        return
    try:
        live: dict[Server, Served] = {}
        for server in LOOP.run(_servers(pool)):
            checks, served = LOOP.run(_met(server, wanted))
            yield from checks
            if served is not None:
                live[server] = served
        if live and not quick:
            yield from _of_weights(live, wanted, model)
    finally:
        LOOP.run(pool.aclose())


def _of_weights(live: "Mapping[Server, Served]", wanted: "Wanted", model: Path | str) -> Iterator[Check]:
    from aipo.doctor.exactness import check_served

    network = attempt("network", lambda: wanted.experiment.network(model), "aipo doctor --quick")
    if isinstance(network, Check):
        yield network
        return
    tolerance = wanted.experiment.tolerance
    for server, served in live.items():
        probe = check_served(server, served, network, wanted.tokenizer, tolerance)
        yield attempt("exactness", lambda probe=probe: LOOP.run(probe))


async def _servers(pool: "ServerPool") -> "tuple[Server, ...]":
    return pool.servers


async def _met(server: "Server", wanted: "Wanted") -> "tuple[list[Check], Served | None]":
    from aipo.doctor.server import examine, meet

    checks, served = await meet(server, wanted)
    if served is not None:
        checks += [check async for check in _survived(examine(server, served, wanted))]
    return checks, served


async def _survived(checks: AsyncIterator[Check]) -> AsyncIterator[Check]:
    """Checks up to the one that could not be done."""
    try:
        async for check in checks:
            yield check
    except Exception as error:  # whatever it is, the other checks are still worth doing
        yield failure("server", error)
