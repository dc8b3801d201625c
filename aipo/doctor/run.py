"""`aipo doctor`: is everything that a run needs there, and is it exact? A line for each check, as it is made."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aipo.config.build import Graphs, build_env, build_graphs
from aipo.config.build_policy import build_model, build_network, build_tokenizer, loading, server_key
from aipo.config.build_sampler import tolerance_at
from aipo.config.load import Config
from aipo.doctor.agents import check_agents
from aipo.doctor.check import Check, Status, attempt, failure
from aipo.doctor.room import Trained, check_disk, check_memory
from aipo.doctor.tokens import check_appending, check_prompt, check_tags, tags_of
from aipo.doctor.versions import check_versions
from aipo.errors import GraphError
from aipo.method.plan import draw_tasks
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


def doctor(config: Config, *, quick: bool, console: Console) -> bool:
    """Prints every check.

    Args:
        quick: leave out what needs the policy's weights in this process.

    Returns:
        Whether none failed.
    """
    counts: Counter[Status] = Counter()
    with console.status("checking"):
        for check in diagnose(config, quick=quick):
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


def diagnose(config: Config, *, quick: bool) -> Iterator[Check]:
    """The checks, from the cheap ones to those that load the policy."""
    yield from check_versions()
    env = attempt("environment", lambda: _checked_env(config))
    yield env if isinstance(env, Check) else Check("ok", "environment", _described(config, env))
    of_agents = list(check_agents(config))
    yield from of_agents
    graphs = attempt("graph", lambda: build_graphs(config))
    if not isinstance(graphs, Check):
        yield Check("ok", "graph", f"{config.graph.name} from {graphs.files['graph']}")
    elif graphs.found not in {check.found for check in of_agents}:
        yield graphs
    model = attempt("policy", lambda: build_model(config, lambda *_: None))
    if isinstance(model, Check):
        yield model
        return
    tokenizer = attempt("tokenizer", lambda: build_tokenizer(model))
    if isinstance(tokenizer, Check):
        yield tokenizer
        return
    yield Check(
        "ok",
        "tokenizer",
        f"of {model}, {len(tokenizer)} ids, end token {tokenizer.decode([tokenizer.eos_id])}",
    )
    yield from check_tags(config, tokenizer)
    prompts = {"plain": tokenizer.encode_prompt("17*23=?")}
    if not isinstance(env, Check) and not isinstance(graphs, Check):
        written = attempt("prompts", lambda: longest_prompts(config, graphs, env, tokenizer))
        if isinstance(written, Check):
            yield written
        else:
            prompts = written
    yield from check_prompt(tokenizer, prompts)
    longest = max(prompts.values(), key=len)
    yield check_appending(tokenizer, longest, tags_of(config))
    yield from _of_network(config, model, tokenizer, longest, quick=quick)


def longest_prompts(
    config: Config, graphs: Graphs, env: Env, tokenizer: "HFTokenizer"
) -> dict[str, list[int]]:
    """The longest prompt of each kind of rollout among the first step's, as the graph itself writes it: for a
    policy that has nothing to say.

    Raises:
        GraphError: such a rollout fails.
    """
    train = config.train
    engine = RolloutEngine(
        graph=graphs.graph,
        env=env,
        policies={"policy": ScriptedPolicy(tokenizer, lambda _: "")},
        chats=graphs.chats,
        sampling=Sampling(temperature=config.rollout.temperature, max_tokens=config.rollout.max_tokens),
        reward_weights=config.rollout.reward_weights,
        deadline=config.rollout.deadline,
        concurrency=config.rollout.concurrency,
        run_id="doctor",
        fingerprints=graphs.fingerprints,
    )
    modes = [Mode.SOLO, *([Mode.ASSISTED] if config.agents and config.method.assist_share_most > 0 else [])]
    tasks = draw_tasks(env, config.env.mixture, train.tasks_per_step, step=0, seed=config.run.seed)
    specs = [
        RolloutSpec(task=task, mode=mode, group_id=str(number), index=0, step=0, seed=number)
        for number, task in enumerate(tasks)
        for mode in modes
    ]
    found: dict[str, list[int]] = {}
    for trace in engine.run_sync(specs, lambda _: None):
        if trace.failed:
            raise GraphError(f"a rollout of task {trace.task_id!r}: got {trace.error}, allowed a scored one")
        ids = [int(i) for segment in trace.segments if segment.role is Role.PROMPT for i in segment.token_ids]
        found[trace.mode] = max(found.get(trace.mode, []), ids, key=len)
    return found


def _checked_env(config: Config) -> Env:
    from aipo.train.run import check_env

    env = build_env(config)
    check_env(config, env)
    _described(config, env)  # reads every split, of which one may not be there
    return env


def _described(config: Config, env: Env) -> str:
    names = dict.fromkeys((*config.env.mixture, *config.evaluate.splits))
    return f"{config.env.name}: " + ", ".join(f"{name} ({len(env.tasks(name))} tasks)" for name in names)


def _of_network(
    config: Config, model: Path | str, tokenizer: "HFTokenizer", prompt: list[int], *, quick: bool
) -> Iterator[Check]:
    from transformers import AutoConfig

    def drawn() -> tuple[Any, Trained]:
        with loading(model):
            network = AutoConfig.from_pretrained(model)
        return network, Trained.of(config, network)

    made = attempt("network", drawn)
    if isinstance(made, Check):
        yield made
        return
    network, policy = made
    yield from check_memory(config, policy, len(prompt))
    yield from check_disk(config, policy)
    if config.policy.engine == "vllm":
        from aipo.doctor.server import Wanted

        tied = bool(network.get_text_config(decoder=True).tie_word_embeddings)
        wanted = Wanted(config=config, tokenizer=tokenizer, prompt=prompt, tied=tied)
        yield from _of_servers(wanted, model, quick=quick)
    elif not quick:
        yield _of_local(config, model, tokenizer, prompt)


def _of_local(config: Config, model: Path | str, tokenizer: "HFTokenizer", prompt: list[int]) -> Check:
    from aipo.doctor.exactness import check_local
    from aipo.policies.local.policy import LocalPolicy

    def sampled() -> Check:
        network = build_network(config, model)
        return check_local(LocalPolicy(network, tokenizer), network, np.array(prompt, np.int32))

    return attempt("exactness", sampled)


def _of_servers(wanted: "Wanted", model: Path | str, *, quick: bool) -> Iterator[Check]:
    from aipo.policies.vllm.pool import ServerPool

    vllm = wanted.config.policy.vllm
    pool = attempt("server", lambda: ServerPool(vllm.servers, key=server_key(vllm.secret)))
    if isinstance(pool, Check):
        yield pool
        return
    try:
        there: dict[Server, Served] = {}
        for server in LOOP.run(_servers(pool)):
            made, served = LOOP.run(_met(server, wanted))
            yield from made
            if served is not None:
                there[server] = served
        if there and not quick:
            yield from _of_weights(there, wanted, model)
    finally:
        LOOP.run(pool.aclose())


def _of_weights(there: "Mapping[Server, Served]", wanted: "Wanted", model: Path | str) -> Iterator[Check]:
    from aipo.doctor.exactness import check_served

    network = attempt("network", lambda: build_network(wanted.config, model), "aipo doctor --quick")
    if isinstance(network, Check):
        yield network
        return
    tolerance = tolerance_at(wanted.config)
    for server, served in there.items():
        probe = check_served(server, served, network, wanted.tokenizer, tolerance)
        yield attempt("exactness", lambda probe=probe: LOOP.run(probe))


async def _servers(pool: "ServerPool") -> "tuple[Server, ...]":
    return pool.servers


async def _met(server: "Server", wanted: "Wanted") -> "tuple[list[Check], Served | None]":
    from aipo.doctor.server import examine, meet

    made, served = await meet(server, wanted)
    if served is not None:
        made += [check async for check in _survived(examine(server, served, wanted))]
    return made, served


async def _survived(checks: AsyncIterator[Check]) -> AsyncIterator[Check]:
    """Checks up to the one that could not be done."""
    try:
        async for check in checks:
            yield check
    except Exception as error:  # whatever it is, the other checks are still worth doing
        yield failure("server", error)
