"""An agent's chat model, as the configuration names it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import isclass, signature
from typing import Any
from urllib.parse import urlsplit

from aipo.config.load import checked
from aipo.config.schema import AgentConfig
from aipo.errors import AipoError, AnswerError, ConfigError, LoadError
from aipo.rollout.agent import ChatSettings
from aipo.rollout.agent_logprobs import PLAIN, WHY, ServedScorer
from aipo.rollout.context import ChatModel, Scorer
from aipo.rollout.env import Env
from aipo.rollout.reference_chat import ReferenceChat, Weights
from aipo.util.event_loop import LOOP
from aipo.util.http.retry import Pause
from aipo.util.http.urls import flaw_of
from aipo.util.imports import Loaded, instantiate, load
from aipo.util.masking import keep_secret
from aipo.util.text import error_text

_CONNECTION = {"http_client", "http_async_client", "http_socket_options", "openai_proxy"}
_ADDRESS = ("base_url", "api_base", "endpoint")
_KEY = "OPENAI_API_KEY"
_OPENAI = "https://api.openai.com/v1"
_ADDRESS_VARIABLES = ("OPENAI_API_BASE", "OPENAI_BASE_URL")
_AZURE_VARIABLES = ("AZURE_OPENAI_ENDPOINT",)


def build_chat(
    key: str,
    config: ChatSettings,
    *,
    seed: int = 0,
    weights: Weights | None = None,
    env: Callable[[], Env] | None = None,
    keys: Mapping[str, str] | None = None,
) -> ChatModel | None:
    """The chat model of an agent or a teacher; None where the configuration has none.

    Args:
        key: of its section, `agents.NAME`.
        seed, weights, env: for functions that take them; `env` makes the environment, or has made it.
        keys: options that are secret; None = those that `config.secrets` names.

    Raises:
        LoadError: it cannot be imported, or a secret is not set.
        ConfigError: options that it does not take, or not so, or no key where its class wants one.
    """
    if config.model is None:
        if config.prices is not None:
            raise ConfigError(f"{key}.prices: got prices without a model, allowed {key}.model")
        return None
    secrets = keys or {
        option: secret(variable, f"{key}.secrets") for option, variable in config.secrets.items()
    }
    where = f"{key}.options of {config.model}"
    if "max_retries" in config.options:
        raise ConfigError(f"{where}: got max_retries, allowed {key}.attempts instead")
    loaded = load(config.model)
    # Our nodes retry on what is transient and nothing else; a client that retries by itself hides it.
    client = {"max_retries": 0, **_connections(loaded, config, where, secrets)}
    offered = client if isclass(loaded.function) else {"seed": seed, "weights": weights, "env": env}
    if hasattr(loaded.function, "_create_chat_result"):
        loaded = replace(loaded, function=_keeping_thinking(loaded.function))
    try:
        model = instantiate(loaded, {**config.options, **secrets}, where, **offered)
    except AipoError:
        raise
    except (Exception, SystemExit) as error:  # a provider's class raises its own
        raise ConfigError(
            f"{where}: got {error_text(error)}, allowed options that it takes; a key is named in "
            f"{key}.secrets (api_key: NAME of an environment variable; any value where a server needs none)"
        ) from error
    if not hasattr(model, "ainvoke"):
        got = type(model).__name__
        raise ConfigError(
            f"{key}.model: got {config.model}, which makes a {got}, allowed a LangChain chat model"
        )
    # LangChain's classes say which environment variables they take a key from.
    keep_secret(*(os.environ.get(variable) for variable in getattr(model, "lc_secrets", {}).values()))
    if "http_async_client" in client and hasattr(model, "root_async_client"):
        from aipo.util.http.client import check_way

        check_way(str(model.root_async_client.base_url))  # wherever its class has the address from
    label, settings = chat_identity(config)
    return ChatModel(
        model=model,
        name=label,
        settings=settings,
        prices=config.prices,
        thinking=config.thinking,
        pause=Pause(config.timeout / 2),
    )


def build_openai_chat(options: dict[str, Any], *, variable: str | None) -> ChatModel:
    """A chat model behind an OpenAI-compatible address that belongs to no agent of a configuration.

    Args:
        options: of `langchain_openai.ChatOpenAI`, with `base_url`.
        variable: environment variable with the key; None = OPENAI_API_KEY for OpenAI's host and that of
            OPENAI_BASE_URL, and no key for any other.

    Raises:
        LoadError, ConfigError: see `build_chat`.
    """
    url = options["base_url"]
    if flaw := flaw_of(url):
        raise ConfigError(
            f"--endpoint: got {url!r} ({flaw}), allowed an address such as http://127.0.0.1:8001/v1"
        )
    known = {urlsplit(one).hostname for one in (_OPENAI, *map(os.environ.get, _ADDRESS_VARIABLES)) if one}
    if variable is None and urlsplit(url).hostname in known:
        variable = _KEY
    key = secret(variable, "--secret") if variable else "none"  # the client wants one
    settings = {"graph": "none:none", "model": "langchain_openai:ChatOpenAI", "options": options}
    chat = build_chat("agents.endpoint", checked(AgentConfig, settings, "--endpoint"), keys={"api_key": key})
    assert chat is not None  # it has a model
    return chat


def _keeping_thinking(chat: Any) -> Any:
    """The class of an OpenAI-compatible chat model that also keeps the thinking which servers give apart
    (`reasoning_content` of vLLM and others, `reasoning`): LangChain's own drops it. An answer that LangChain cannot read
    is an `AnswerError`."""

    class KeepsThinking(chat):
        def _create_chat_result(self, response: Any, *rest: Any, **named: Any) -> Any:
            try:
                result = super()._create_chat_result(response, *rest, **named)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise AnswerError(
                    f"answer of {self.model_name}: got one that {chat.__name__} cannot read ({error_text(error)}), "
                    "allowed a chat completion"
                ) from error
            raw = response if isinstance(response, dict) else response.model_dump(warnings=False)
            for generation, choice in zip(result.generations, raw["choices"], strict=True):
                said = choice["message"]
                if isinstance(thinking := said.get("reasoning_content") or said.get("reasoning"), str):
                    generation.message.additional_kwargs.setdefault("reasoning_content", thinking)
            return result

    return KeepsThinking


def secret(variable: str, where: str) -> str:
    """The value of an environment variable that holds a key; from now on it is masked in texts.

    Raises:
        LoadError: it is not set, or holds what no server can be sent.
    """
    value = os.environ.get(variable)
    if value is None:
        raise LoadError(f"{where}: got no environment variable {variable!r}, allowed one that is set")
    if not value.isascii() or not value.isprintable() or value != value.strip() or not value:
        got = (
            "an empty value"
            if not value.strip()
            else "a space or a line break around it, or a character that no key has"
        )
        raise LoadError(
            f"{where}: got {got} in the environment variable {variable!r}, allowed a key (not shown here)"
        )
    keep_secret(value)
    return value


def _connections(
    loaded: Loaded, config: ChatSettings, where: str, secrets: Mapping[str, str]
) -> dict[str, Any]:
    """HTTP clients that live as long as our loop, for classes that take them (LangChain's own are never closed).

    Raises:
        ConfigError: the address of the server is none.
    """
    parameters = signature(loaded.function).parameters
    if "http_async_client" not in parameters:
        return {}
    addresses = {key: str(value) for key, value in config.options.items() if key.endswith(_ADDRESS) and value}
    if not addresses:
        variables = _AZURE_VARIABLES if "azure_endpoint" in parameters else _ADDRESS_VARIABLES
        addresses = {name: value for name in variables if (value := os.environ.get(name))}
    for key, value in addresses.items():
        if flaw := flaw_of(value):
            raise ConfigError(
                f"{where}: got {key} {value!r} ({flaw}), allowed an address such as http://127.0.0.1:8001/v1"
            )
    if not secrets.keys() & {"api_key", "openai_api_key"} and os.environ.get(_KEY):
        secret(_KEY, where)
    if _CONNECTION & config.options.keys() or "OPENAI_PROXY" in os.environ:
        return {}
    from openai import DEFAULT_CONNECTION_LIMITS, DEFAULT_TIMEOUT

    from aipo.util.http.client import open_client, open_sync_client

    client = open_client(limits=DEFAULT_CONNECTION_LIMITS, timeout=DEFAULT_TIMEOUT)
    LOOP.at_close(client.aclose)
    return {"http_async_client": client, "http_client": open_sync_client()}


def chat_identity(config: ChatSettings) -> tuple[str, dict[str, Any]]:
    """Name and settings of an agent's chat model, as calls record them."""
    label = str(config.options.get("model", config.model))
    # The class too: a cached reply of one provider is not another's, though the model's name be the same.
    return label, {"class": config.model, **config.options}


def build_scorer(name: str, config: AgentConfig, chat: ChatModel) -> Scorer:
    """Whom to ask for the log-probs of agent `name`. Asks nobody yet.

    Raises:
        ConfigError: its model has none, or samples from another distribution than that of its log-probs; says why.
    """
    model: Any = chat.model
    if isinstance(model, ReferenceChat):
        return model
    where = f"agents.{name}.model"
    if not hasattr(model, "root_async_client"):
        raise ConfigError(
            f"{where}: got {config.model}, which tells no log-probs of given ids, allowed "
            f"aipo.rollout.reference_chat:reference or langchain_openai:ChatOpenAI of a vLLM server, {WHY}"
        )
    extra = dict(model.extra_body or {})
    if not _plain(model, extra):
        raise ConfigError(
            f"agents.{name}.options: got {dict(config.options)}, allowed temperature: 1, top_p: 1 and "
            f"extra_body: {dict(PLAIN)} (and chat_template_kwargs), without penalties, biases, constraints or "
            f"model_kwargs: the distribution that its server tells log-probs of, {WHY}"
        )
    return ServedScorer(
        model.root_async_client,
        model.model_name,
        template=extra.get("chat_template_kwargs", {}),
        timeout=config.timeout,
        attempts=config.attempts,
    )


def _plain(model: Any, extra: Mapping[str, Any]) -> bool:
    """Does a chat model sample from what the network says, and nothing else?"""
    bent = (model.frequency_penalty, model.presence_penalty, model.logit_bias, model.model_kwargs)
    unknown = extra.keys() - PLAIN.keys() - {"chat_template_kwargs"}
    stated = all(extra.get(key) == value for key, value in PLAIN.items())
    return model.temperature == 1 and model.top_p == 1 and stated and not any(bent) and not unknown
