"""Evaluation into a run folder: every data set, solo and with agents."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config.build import Experiment
from aipo.config.environment import suite_overrides
from aipo.errors import ConfigError, RunError
from aipo.evaluate.choice import SETTINGS, PolicyChoice, RoutedEngine
from aipo.evaluate.endpoint import Endpoint
from aipo.evaluate.parts import Part
from aipo.evaluate.samples import SAMPLES, SampleStore, missing
from aipo.evaluate.tables import cost_table, markdown, table
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.env import Task
from aipo.rollout.run_limits import commonest_error
from aipo.run import RunFolder, keep_tokenizer
from aipo.trace import Mode, Trace
from aipo.util.console import Note, bars, print_warning, stage
from aipo.util.files import write_json, write_text
from aipo.util.output import write_event
from aipo.util.text import to_json

Warn = Callable[[str], None]
SETUP = "setup.json"
_MAY_DIFFER = ("samples", "ks", "settings", "keep")
"""Settings of an evaluation which `--resume` may change: samples that are there stay as they are."""


def evaluate_folder(
    run: Path | None,
    config_name: str | None,
    overrides: Iterable[str],
    *,
    name: str,
    console: Console,
    endpoint: Endpoint | None = None,
    suite: str | None = None,
    resume: bool = False,
) -> None:
    """Evaluates the policy of a run folder, or the untrained one of a configuration (by default `aipo_distil`), or a served
    model on the configuration's environment or the data sets of a suite.

    Args:
        resume: goes on with the evaluation of this name: samples what is missing of it.

    Raises:
        ConfigError: more than one policy is named, `name` is no plain word, or no such suite.
        RunError: no trained policy in the run, no run there, an untrained policy's evaluation would go into
            a run's folder, there is one of that name already, or there is none to go on with.
    """
    choice = PolicyChoice(run=run, config=config_name, endpoint=endpoint)
    experiments = _experiments(choice, suite, [*overrides])
    if run is None and endpoint is None:
        experiments[0].check_model()
    folder = RunFolder(run or experiments[0].out)
    _check(folder, name, trained=run is not None, resume=resume)
    setup = _setup(experiments, {"suite": suite, "policy": choice.described(experiments[0])})
    recorded = folder.evaluation_traces(name) / SETUP
    if resume and (differs := _differences(recorded, setup)):
        raise RunError(
            f"--resume: got another {', '.join(differs)} than {recorded}, allowed the same, or a new --name"
        )
    file = str(folder.evaluation(name))
    write_event(console, "started", command="eval", file=file)
    run_id, text_only = f"{folder.path.name}-{name}", endpoint is not None and endpoint.text_only
    with folder.evaluation_taken(name), bars(console) as progress:
        note, warn = stage(progress, "evaluate"), partial(print_warning, console)
        note(0, 1, "loading the policy")
        with choice.open(
            experiments, folder.path, progress, run_id=run_id, suppressed=not text_only
        ) as engine:
            freeze_gc()
            if not text_only:
                tokenizer: Any = engine.policies["policy"].tokenizer
                keep_tokenizer(folder, tokenizer.inner.save_pretrained)
            result = evaluate_with(
                experiments, engine, folder, name, note, warn, choice.settings, setup=setup, resume=resume
            )
    console.print(table(result))
    if (agents := cost_table(result)) is not None:
        console.print(agents)
    console.print(f"written to {file} and {Path(file).with_suffix('.md')}", highlight=False, soft_wrap=True)
    write_event(console, "evaluation", file=file, results=result)
    write_event(console, "finished", command="eval", file=file, results=result)


def _experiments(choice: PolicyChoice, suite: str | None, overrides: Sequence[str]) -> list[Experiment]:
    """One, or that of each data set of a suite; checked.

    Raises:
        ConfigError: no such suite, or two of its data sets have splits of one name.
    """
    datasets = {"": list[str]()} if suite is None else suite_overrides(suite)
    experiments: list[Experiment] = []
    splits: dict[str, str] = {}
    for dataset, settings in datasets.items():
        experiment = choice.load([*settings, *overrides])
        experiment.check_env(training=False)
        for split in experiment.evaluation.splits:
            if split in splits:
                raise ConfigError(
                    f"--suite: got split {split!r} in {splits[split]} and {dataset}, allowed a name of its own for each "
                    "(env.options.splits)"
                )
            splits[split] = dataset
        experiments.append(experiment)
    return experiments


def _check(folder: RunFolder, name: str, *, trained: bool, resume: bool) -> None:
    """Refuses an evaluation that cannot be written, before time is spent on it."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"--name: got {name!r}, allowed letters, digits, - and _")
    if not trained and folder.config.is_file():
        raise RunError(
            f"eval: got run.out={folder.path}, which holds a run, and an untrained policy, "
            f"allowed --run {folder.path} or another run.out"
        )
    file, samples = folder.evaluation(name), folder.evaluation_traces(name) / SAMPLES
    if resume and not samples.is_file():
        raise RunError(f"--resume: got {name!r}, allowed an evaluation that was begun, in {samples.parent}")
    if not resume and file.exists():
        raise RunError(f"--name: got {name!r}, which {file} holds already, allowed a new name")
    if not resume and samples.is_file() and samples.stat().st_size:
        raise RunError(
            f"--name: got {name!r}, of which {samples} has samples, allowed --resume to go on with it, or a new name"
        )


def evaluate_with(
    experiments: Sequence[Experiment],
    engine: RolloutEngine,
    folder: RunFolder,
    name: str,
    note: Note,
    warn: Warn,
    modes: Mapping[str, tuple[Mode, bool]] = SETTINGS,
    *,
    setup: Mapping[str, Any] | None = None,
    resume: bool | None = None,
    needs_verdict: bool = True,
) -> dict[str, dict[str, Any]]:
    """Every split under every setting; written to evaluations/NAME.json as split → setting → result, and to NAME.md.

    Each sample is a line of evaluations/NAME/samples.jsonl; the traces that `evaluate.keep` says are beside it. `warn` is told
    of failed rollouts and of a policy that never asks.

    Args:
        engine: for all of `experiments`, see `aipo.evaluate.choice.PolicyChoice.open`.
        setup: what is asked, for the record; None = of the policy that trains.
        resume: goes on with the samples that are there; None = if they are of the same setup.

    Raises:
        RunError: all rollouts failed, and a verdict is needed; says why.
    """
    home = folder.evaluation_traces(name)
    parts = _parts(experiments, engine, modes)
    version = engine.policies["policy"].version
    setup = setup or _setup(experiments, {"suite": None, "policy": {"version": version}})
    resume = not _differences(home / SETUP, setup) if resume is None else resume
    guard = experiments[0].guards(folder.spending, warn)
    of_group = {group: part for part in parts for group in part.groups}
    decode = engine.policies["policy"].tokenizer.decode
    write_json(home / SETUP, setup)
    with SampleStore(
        home,
        lambda trace: of_group[trace.group_id].sample(trace),
        resume=resume,
        decode=decode,
    ) as store:

        def keep(trace: Trace) -> None:
            if trace.policy == "policy":
                store.add(trace)
            guard(trace)
            part = of_group[trace.group_id]
            at[0] = f"{part.split}, {part.setting}"

        at = [""]
        wanted = missing((key for part in parts for key in part.sample_keys()), store.samples)
        specs = [spec for part in parts for spec in part.specs(wanted)]
        total = sum(len(part.sample_keys()) for part in parts)

        def progress(finished: int, _: int) -> None:
            note(total - len(specs) + finished, total, at[0])

        engine.run_sync(specs, keep, progress)
        store.seal()
        samples = [*store.samples.values()]
        results: dict[str, dict[str, Any]] = {}
    for part in parts:
        of_part = [s for s in samples if (s.split, s.setting) == (part.split, part.setting)]
        results.setdefault(part.split, {})[part.setting] = asdict(part.result(of_part))
    failed = sum(r["counts"]["failed"] for of_split in results.values() for r in of_split.values())
    if failed:
        errors = [sample for sample in samples if sample.error is not None]
        said = f"{failed} of {total} rollouts failed. {commonest_error(errors) if errors else ''}"
        if failed == total and needs_verdict:
            raise RunError(f"evaluation {name!r}: {said}; allowed one with a verdict. Traces: {home}")
        warn(said)
    write_json(folder.evaluation(name), results)
    write_text(folder.evaluation(name).with_suffix(".md"), markdown(name, results))
    return results


def _parts(
    experiments: Sequence[Experiment], engine: RolloutEngine, modes: Mapping[str, tuple[Mode, bool]]
) -> list[Part]:
    return [
        Part(
            engine=_engine_of(engine, split),
            split=split,
            tasks=_engine_of(engine, split).env.tasks(split),
            setting=setting,
            mode=modes[setting][0],
            suppress=modes[setting][1],
            samples=experiment.evaluation.samples,
            ks=experiment.evaluation.ks,
            seed=experiment.seed,
            keep=experiment.evaluation.samples if experiment.evaluation.keep == "all" else 1,
        )
        for experiment in experiments
        for split, setting in product(experiment.evaluation.splits, experiment.evaluation.settings)
    ]


def _engine_of(engine: RolloutEngine, split: str) -> RolloutEngine:
    return engine.routes[split] if isinstance(engine, RoutedEngine) else engine


def _setup(experiments: Sequence[Experiment], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation is asked, in plain types."""
    datasets = {
        split: {
            "env": experiment.env_name,
            "options": experiment.env_options,
            "graph": experiment.graph_name,
            "graph_options": experiment.graph_options,
            "agents": {name: agent.model_dump(mode="json") for name, agent in experiment.agents.items()},
            "temperature": experiment.rollout.temperature,
            "max_tokens": experiment.rollout.max_tokens,
            "seed": experiment.seed,
            "fingerprints": dict(experiment.graphs.fingerprints),
            "tasks": _fingerprint(experiment.env.tasks(split)),
            **{name: getattr(experiment.evaluation, name) for name in _MAY_DIFFER},
        }
        for experiment in experiments
        for split in experiment.evaluation.splits
    }
    return json.loads(json.dumps({**asked, "datasets": datasets}, default=str))


def _fingerprint(tasks: Sequence[Task]) -> dict[str, Any]:
    content = to_json([(task.task_id, task.prompt, task.answer) for task in tasks])
    return {"count": len(tasks), "fingerprint": hashlib.blake2b(content, digest_size=8).hexdigest()}


def _same(key: str, value: Any, before: Any) -> bool:
    """Whether a setting is what it was. Of fingerprints, those of files that both have: beside the graph's own file, they are of
    files that the process happened to have imported."""
    if key == "fingerprints" and before is not None:
        return all(value[name] == before[name] for name in value.keys() & before.keys())
    return value == before


def _differences(file: Path, setup: Mapping[str, Any]) -> list[str]:
    """What is asked otherwise than when the samples were made that `file` stands beside. More samples, settings and data sets may
    be asked."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        known: Mapping[str, Any] = before["datasets"]
        names = [] if before["policy"] == setup["policy"] else ["policy"]
        for split, asked in known.items():
            now = setup["datasets"].get(split)
            if now is None or not set(asked["settings"]) <= set(now["settings"]):
                names.append(f"datasets.{split}" if now is None else f"datasets.{split}.settings")
                continue
            names += [
                f"datasets.{split}.{key}"
                for key, value in now.items()
                if key not in _MAY_DIFFER and not _same(key, value, asked.get(key))
            ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or not ours
        return [SETUP]
    return names
