"""The commands `aipo eval`, `aipo try`, `aipo env` and `aipo overlap`: options only."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from aipo.config.cli import EnvName, Overrides
from aipo.errors import ConfigError
from aipo.util.files import read_text
from aipo.util.imports import users_code
from aipo.util.output import EventsOption, JsonOption, event_output, output

if TYPE_CHECKING:
    from aipo.evaluate.endpoint import Endpoint


def _suites(start: str) -> list[str]:
    """Completes the name of a suite."""
    from aipo.config.environment import suites

    return [name for name in suites() if name.startswith(start)]


Url = Annotated[
    str | None, Option(help="address of an OpenAI-compatible API with the model, such as http://host:8000/v1")
]
Model = Annotated[str | None, Option(help="--endpoint: name of the model on the server")]
Secret = Annotated[
    str | None,
    Option(
        help="--endpoint: NAME of the environment variable with the key; default: OPENAI_API_KEY for api.openai.com and "
        "the host of OPENAI_BASE_URL, no key for others"
    ),
]
Tokenizer = Annotated[
    str | None,
    Option(
        help="--endpoint of vLLM: folder or hub name of the model's tokenizer; traces then have token ids and log-probs"
    ),
]


def evaluate(
    run: Annotated[Path | None, Option(help="a run folder: evaluates its trained policy")] = None,
    config: Annotated[
        str | None, Option(help="preset or YAML file: evaluates the policy before training")
    ] = None,
    env: EnvName = None,
    endpoint: Url = None,
    model: Model = None,
    secret: Secret = None,
    tokenizer: Tokenizer = None,
    suite: Annotated[
        str | None,
        Option(
            help="data sets with the settings of published suites, in place of the configuration's environment: aipo, or a "
            "YAML file; without a configuration, with the preset small",
            autocompletion=_suites,
        ),
    ] = None,
    name: Annotated[
        str, Option(help="name of the evaluation; without --resume it must be new in the run")
    ] = "eval",
    resume: Annotated[
        bool, Option("--resume", help="go on with this evaluation: sample what is missing")
    ] = False,
    as_json: EventsOption = False,
    overrides: Overrides = None,
) -> None:
    """Evaluates a policy: pass@k, avg@k and maj@k with intervals.

    It is evaluated solo, solo with the consult tags suppressed, and with agents. A model behind --endpoint is evaluated solo; with its --tokenizer, in all three ways.
    """
    from aipo.config.environment import OWN_MODEL, with_environment
    from aipo.evaluate.run import evaluate_folder

    served = served_model(endpoint, model, secret, tokenizer)
    if suite is not None and env is not None:
        raise ConfigError(f"--suite, --env: got {suite} and {env}, allowed one of the two")
    if suite is not None and run is None:
        config = config or OWN_MODEL
    with event_output(as_json) as console:
        config, words = with_environment(env, config, overrides or (), of_run=run is not None)
        evaluate_folder(
            run,
            config,
            words,
            name=name,
            console=console,
            endpoint=served,
            suite=suite,
            resume=resume,
        )


def try_(
    question: Annotated[str, Argument(help="the question, as the environment asks it")],
    overrides: Overrides = None,
    answer: Annotated[
        str | None,
        Option(help="expected answer; default: that of the environment's own task, if it asks this"),
    ] = None,
    config: Annotated[str | None, Option(help="preset or YAML file: the policy before training")] = None,
    run: Annotated[Path | None, Option(help="a run folder: its trained policy")] = None,
    endpoint: Url = None,
    model: Model = None,
    secret: Secret = None,
    tokenizer: Tokenizer = None,
    setting: Annotated[
        list[str] | None,
        Option(
            help="solo, suppressed or assisted; may be repeated; default: solo, and assisted if there are agents"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answers one question on the terminal.

    Solo and, if there are agents, assisted; coloured by who wrote what. Nothing is stored.
    """
    from aipo.evaluate.single import try_question

    served = served_model(endpoint, model, secret, tokenizer)
    with output(as_json) as console:
        try_question(
            question,
            answer,
            run=run,
            config=config,
            endpoint=served,
            overrides=overrides or (),
            settings=setting or (),
            console=console,
        )


def served_model(
    url: str | None, model: str | None, secret: str | None, tokenizer: str | None
) -> "Endpoint | None":
    """What the options name.

    Raises:
        ConfigError: a part of it is missing.
    """
    from aipo.evaluate.endpoint import Endpoint

    others = {"--model": model, "--secret": secret, "--tokenizer": tokenizer}
    if url is None:
        if given := [option for option, value in others.items() if value is not None]:
            raise ConfigError(f"{given[0]}: got one without --endpoint, allowed with the address of a server")
        return None
    if model is None:
        raise ConfigError("--endpoint: got no --model, allowed the name of a model on that server")
    return Endpoint(url=url, model=model, secret=secret, tokenizer=tokenizer)


def env(
    name: Annotated[
        str,
        Argument(
            help="miniature, math500, a file of questions, module:Class, file.py:Class, a preset or a YAML file"
        ),
    ],
    overrides: Overrides = None,
    split: Annotated[str | None, Option(help="list the tasks of this split; default: all splits")] = None,
    index: Annotated[int | None, Option(help="show the task of this number, from 0")] = None,
    seed: Annotated[int | None, Option(help="show the task that this random seed draws")] = None,
    score: Annotated[str | None, Option(help="score this text as a rollout's answer; - reads stdin")] = None,
    score_file: Annotated[Path | None, Option(help="score the text of this file")] = None,
    limit: Annotated[int, Option(min=1, help="maximum number of tasks that are listed")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Shows tasks of an environment, scores a text. A text is scored as the answer of a rollout is."""
    from aipo.evaluate.tasks import choose_task, environment, show_splits, show_task, show_tasks

    if score is not None and score_file is not None:
        raise ConfigError("--score, --score-file: got both, allowed one of the two")
    text = _text(score, score_file)
    with output(as_json) as console:
        experiment = environment(name, overrides or ())
        if text is not None or index is not None or seed is not None:
            with users_code(f"tasks of {experiment.env_name}"):
                chosen = choose_task(experiment, split, index, seed)
            show_task(experiment, *chosen, text=text, console=console)
        elif split is not None:
            show_tasks(experiment, split, limit=limit, console=console)
        else:
            show_splits(experiment, console)


def overlap(
    training: Annotated[
        str, Argument(help="what is trained on: benchmarks, a file of questions, a YAML file, ...")
    ],
    test: Annotated[str, Argument(help="what is evaluated")],
    overrides: Overrides = None,
    n: Annotated[int, Option(min=1, help="words in a row that two questions share")] = 13,
    limit: Annotated[int, Option(min=1, help="maximum number of test items that are listed")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Finds test questions in training data. Counts the test items that share words in a row (n-grams) with training items. Prints ids, no questions."""
    from aipo.evaluate.overlap import show_overlap

    with output(as_json) as console:
        show_overlap(training, test, overrides or (), n=n, limit=limit, console=console)


def _text(score: str | None, file: Path | None) -> str | None:
    """The text to score.

    Raises:
        ConfigError: the file cannot be read, or is no UTF-8.
    """
    try:
        if file is not None:
            return read_text(file)
        return sys.stdin.read() if score == "-" else score
    except (OSError, ValueError) as error:
        where = "--score -" if file is None else f"--score-file {file}"
        raise ConfigError(f"{where}: got {error}, allowed text in UTF-8") from error
