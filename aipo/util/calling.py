"""Calling what the configuration names, with the options that it gives."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call

from aipo.errors import ConfigError
from aipo.util.imports import Loaded

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def call(loaded: Loaded, options: Mapping[str, Any], where: str, /, **offered: Any) -> Any:
    """Calls what was loaded; gives it those of `offered` that it takes and `options` leaves out.

    Raises:
        ConfigError: options that it does not take, or not so; `where` says whose they are.
    """
    parameters = inspect.signature(loaded.function).parameters
    keywords = {k: v for k, v in offered.items() if k in parameters} | dict(options)
    aliases = _aliases(loaded.function)
    given = {aliases.get(name, name) for name in keywords}
    required = {k for k, p in parameters.items() if p.default is p.empty and p.kind not in _STARRED}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = sorted(given - set(parameters)) if not open_ended else []
    if unknown:
        raise ConfigError(f"{where}: got {unknown}, allowed {sorted({*parameters, *aliases})}")
    # One that is open-ended may know an argument by another name.
    missing = sorted(required - given) if not open_ended else []
    if missing:
        raise ConfigError(f"{where}: got no {missing}, allowed a value for each of {sorted(required)}")
    try:
        if inspect.isclass(loaded.function):
            return loaded.function(**keywords)
        checked: Any = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(loaded.function)
        return checked(**keywords)
    except ValidationError as error:
        # Neither pydantic's text nor its error as a cause: both show values, and secrets are among them.
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise ConfigError(f"{where}: {wrong}") from None


def _aliases(function: Any) -> dict[str, str]:
    """Names that a pydantic model takes beside the aliases that its signature shows, and these."""
    if not (inspect.isclass(function) and issubclass(function, BaseModel)):
        return {}
    named = function.model_config.get("populate_by_name") or function.model_config.get("validate_by_name")
    fields = function.model_fields.items() if named else ()
    return {name: field.alias for name, field in fields if field.alias and field.alias.isidentifier()}
