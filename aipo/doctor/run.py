"""`aipo doctor`: is everything that a run needs there, and is it exact? A line for each check, as it is made."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aipo.config.build import Experiment
from aipo.config.fit import Misfit, chat_misfits, check_rate, misfits
from aipo.doctor.agents import check_agents
from aipo.doctor.chat import check_chat
from aipo.doctor.check import Check, PolicyParts, Status, attempt, report
from aipo.doctor.consults import asks_agents, check_consults
from aipo.doctor.disk import check_disk
from aipo.doctor.exactness import check_local
from aipo.doctor.memory import Size, check_memory, on_gpu
from aipo.doctor.server import check_server
from aipo.doctor.step import check_step
from aipo.doctor.tasks import check_tasks
from aipo.doctor.tokens import check_appending, check_prompt, check_tags
from aipo.doctor.versions import check_versions
from aipo.errors import GraphError
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.scripted import ScriptedPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode, Role
from aipo.util.event_loop import LOOP
from aipo.util.output import print_result
from aipo.util.text import counted, visible

_COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(experiment: Experiment, *, quick: bool, console: Console) -> bool:
    """Prints every check.

    Args:
        quick: leave out what needs the policy's weights in this process.

    Returns:
        Whether none failed.

    Raises:
        ConfigError: a configuration of several policies.
    """
    experiment.check_single("`aipo doctor`")
    checks: list[Check] = []
    with console.status("checking"):
        for check in diagnose(experiment, quick=quick):
            checks.append(check)
            console.print(line(check))
    counts = Counter(check.status for check in checks)
    console.print(f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail", highlight=False)
    passed = not counts["fail"]
    print_result(console, {"passed": passed, "checks": [asdict(check) for check in checks]})
    return passed


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
    env = report("environment", lambda: _environment(experiment))
    yield env
    agents = list(check_agents(experiment))
    yield from agents
    graph = report("graph", lambda: f"{experiment.graph_name} from {experiment.graphs.files['graph']}")
    if graph.found not in {check.found for check in agents}:
        yield graph
    ready = env.status == graph.status == "ok"
    if ready:
        yield from _warned(misfits(experiment))
    if graph.status == "ok":
        coefficient = report("coefficient", lambda: _coefficient(experiment))
        yield coefficient
        ready = ready and coefficient.status == "ok"
    model = attempt("policy", experiment.build_model)
    if isinstance(model, Check):
        yield model
        return
    tokenizer = attempt("tokenizer", lambda: experiment.tokenizer(model))
    if isinstance(tokenizer, Check):
        yield tokenizer
        return
    end = tokenizer.decode([tokenizer.eos_id])
    yield Check("ok", "tokenizer", f"of {model}, {len(tokenizer)} ids, end token {end}")
    yield from check_tags(experiment, tokenizer)
    prompts = {"plain": tokenizer.encode_prompt("17*23=?")}
    if ready:
        written = attempt("prompts", lambda: longest_prompts(experiment, tokenizer))
        if isinstance(written, Check):
            yield written
        else:
            prompts = written
            tasks = attempt("tasks", lambda: [*check_tasks(experiment, tokenizer)])
            yield from [tasks] if isinstance(tasks, Check) else tasks
    yield from check_prompt(tokenizer, prompts)
    yield from _warned(chat_misfits(experiment, tokenizer))
    longest = max(prompts.values(), key=len)
    yield check_appending(tokenizer, longest, experiment.consult_tags)
    if ready:
        yield from check_chat(experiment.graphs.graph, tokenizer)
    settings = attempt("network", lambda: experiment.network_settings(model))
    if isinstance(settings, Check):
        yield settings
        return
    parts = PolicyParts(
        experiment=experiment, model=model, tokenizer=tokenizer, settings=settings, prompt=longest
    )
    yield from _space(parts, quick=quick)
    if experiment.policy.engine == "vllm":
        yield from _servers(parts, quick=quick, ready=ready)
    elif not quick:
        policy = attempt("exactness", lambda: LocalPolicy(parts.network, parts.tokenizer))
        if isinstance(policy, Check):
            yield policy
            return
        yield attempt("exactness", lambda: check_local(parts, policy))
        if ready and asks_agents(experiment):
            yield attempt("consults", lambda: check_consults(experiment, policy))


def longest_prompts(experiment: Experiment, tokenizer: HFTokenizer) -> dict[str, list[int]]:
    """The longest prompt of each kind of rollout among the first step's, as the graph itself writes it: for a
    policy that has nothing to say.

    Raises:
        GraphError: such a rollout fails.
    """
    policy = ScriptedPolicy(tokenizer, lambda _: "")
    engine = experiment.engine(policy, run_id="doctor", forbidden_ids=())
    assisted = asks_agents(experiment)
    specs = [
        RolloutSpec(task=task, mode=mode, group_id=str(number), index=0, step=0, seed=number)
        for number, task in enumerate(experiment.tasks(0))
        for mode in ((Mode.SOLO, Mode.ASSISTED) if assisted else (Mode.SOLO,))
    ]
    prompts: dict[str, list[int]] = {}
    for trace in engine.run_sync(specs, lambda _: None):
        if trace.failed:
            raise GraphError(f"a rollout of task {trace.task_id!r}: got {trace.error}, allowed a scored one")
        ids = [int(i) for segment in trace.segments if segment.role is Role.PROMPT for i in segment.token_ids]
        prompts[trace.mode] = max(prompts.get(trace.mode, []), ids, key=len)
    return prompts


def _environment(experiment: Experiment) -> str:
    experiment.check_env()
    env, names = experiment.env, dict.fromkeys((*experiment.mixture, *experiment.evaluation.splits))
    counts = ", ".join(f"{name} ({counted(len(env.tasks(name)), 'task')})" for name in names)
    return f"{experiment.env_name}: {counts}"


def _coefficient(experiment: Experiment) -> str:
    experiment.check_grants()
    experiment.scored_chats()  # imports a user's function, and asks agents for log-probs if it needs them
    method = experiment.method
    agents = [f"{name} {settings.coefficient}" for name, settings in method.agents.items()]
    return ", ".join([method.coefficient, *agents])


def _warned(found: Iterable[Misfit]) -> Iterator[Check]:
    return (Check("warn", *one) for one in found)


def _space(parts: PolicyParts, *, quick: bool) -> Iterator[Check]:
    """The learning rate for a network of this size, memory and disk."""
    experiment = parts.experiment
    size = attempt("network", lambda: Size.of(experiment, parts.settings))
    if isinstance(size, Check):
        yield size
        return
    rate = check_rate(experiment, size.weights // getattr(torch, experiment.policy.dtype).itemsize)
    yield Check("warn" if rate.advice else "ok", *rate)
    memory = check_memory(experiment, size)
    yield memory
    if not quick and on_gpu(experiment) and memory.status == "ok":
        yield attempt("measured memory", lambda: check_step(parts, size))
    yield from check_disk(experiment, size)


def _servers(parts: PolicyParts, *, quick: bool, ready: bool) -> Iterator[Check]:
    ids = parts.settings.get_text_config(decoder=True).vocab_size
    policy = attempt("server", lambda: parts.experiment.served_policy(parts.tokenizer, ids))
    if isinstance(policy, Check):
        yield policy
        return
    try:
        for url in policy.pool.urls:
            yield from (checks := LOOP.run(check_server(policy, url, parts, quick=quick)))
            ready = ready and all(check.status != "fail" for check in checks)
        if ready and not quick and asks_agents(parts.experiment):
            yield attempt("consults", lambda: check_consults(parts.experiment, policy))
    finally:
        LOOP.run(policy.aclose())
