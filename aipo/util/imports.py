"""Importing what the configuration names, `module:function` or `file.py:function`, and calling it with its options.

A user's edited `graphs/` in the working directory wins over an installed copy; see `working_directory`. Everything
loaded has a file and a fingerprint, which a run prints and records.
"""

import hashlib
import importlib
import importlib.util
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call

from aipo.errors import AipoError, ConfigError, LoadError
from aipo.util.text import place
from aipo.util.working_directory import importing_users_code, stands_for_another, use_working_directory

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function and where it came from. `fingerprint` is of the whole file.

    A package may export what one of its modules defines. Then `file` is that module's.
    """

    name: str
    function: Callable[..., Any]
    file: Path
    fingerprint: str


def load(name: str) -> Loaded:
    """Imports what `name` says.

    Raises:
        LoadError: `name` is not of the form, the module, file or function does not exist, its code fails
            as it is imported, or the module is built into Python and has no file.
    """
    module_name, _, attribute = name.rpartition(":")
    is_file = module_name.endswith(".py")
    if not module_name or not attribute or (module_name.startswith(".") and not is_file):
        raise LoadError(f"name of an object: got {name!r}, allowed 'module:function' or 'file.py:function'")
    package, dot, _ = module_name.partition(".")
    use_working_directory(package if dot else None)
    if not dot and stands_for_another(module_name):
        module_name += ".py"  # by its own name it would take the other one's place
    module = _from_file(module_name) if module_name.endswith(".py") else _from_module(module_name, name)
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = {n for n, v in vars(module).items() if inspect.isfunction(v) or inspect.isclass(v)}
        known = sorted((functions | set(getattr(module, "__all__", ()))) - {"__getattr__"})
        where = getattr(module, "__file__", None) or "Python itself"
        what = f" of type {type(function).__name__}" if hasattr(module, attribute) else ""
        raise LoadError(
            f"object in {module_name!r}: got {attribute!r}{what}, allowed one of {known}, in {where}"
        )
    if getattr(module, "__file__", None) is None:
        raise LoadError(f"module of {name!r}: got {module_name!r}, which has no file, allowed one that has")
    file = _file_in_package(module, function) or Path(module.__file__).resolve()
    return Loaded(name, function, file, fingerprint(file))


def fingerprint(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _file_in_package(package: Any, function: Any) -> Path | None:
    """The file that defines `function`, if it is a module of `package`."""
    module = getattr(function, "__module__", None) or ""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file and module.startswith(f"{package.__name__}.") else None


def _from_module(module_name: str, name: str) -> Any:
    with _importing(module_name):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise LoadError(
                f"module of {name!r}: got {error.name!r} which is not found, looked in {[*sys.path, str(Path.cwd())]}"
            ) from error


def _from_file(file_name: str) -> Any:
    path = Path(file_name).expanduser().resolve()
    if not path.is_file():
        raise LoadError(f"file: got {file_name!r}, allowed an existing .py file, looked at {path}")
    # Keyed by path, so that two files of the same name do not stand in for each other.
    module_name = f"aipo_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"file: got {file_name!r}, allowed a file that Python can import, looked at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    with _importing(file_name):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importing(what: str) -> Generator[None]:
    with _without_interrupts(), users_code(f"importing {what!r}"), importing_users_code():
        yield


@contextmanager
def users_code(what: str) -> Generator[None]:
    """In the block runs anybody's code, which may raise anything, and call `sys.exit`.

    Raises:
        LoadError: it did; says what it was to do (`what`), and where it failed.
    """
    try:
        yield
    except (AipoError, KeyboardInterrupt):
        raise
    except BaseException as error:
        exits = isinstance(error, SystemExit)
        got = f"sys.exit({error.code!r})" if exits else f"{type(error).__name__}: {error}"
        raise LoadError(f"{what}: got {got}, allowed code that runs, in {place(error)}") from error


@contextmanager
def _without_interrupts() -> Generator[None]:
    """Holds a Ctrl-C back: libraries swallow it while they are imported, and what is half imported breaks later."""
    held: list[int] = []
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not ours or before is None:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def instantiate(loaded: Loaded, options: Mapping[str, Any], where: str, /, **offered: Any) -> Any:
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
        examples = [text for name in missing for text in _examples(parameters[name])]
        such = f", such as {' '.join(examples)}" if examples else ""
        raise ConfigError(f"{where}: got no {missing}, allowed a value for each of {sorted(required)}{such}")
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


def _examples(parameter: inspect.Parameter) -> list[str]:
    """The examples in a parameter's pydantic `Field`: words of a command that give it a value."""
    noted = getattr(parameter.annotation, "__metadata__", ())
    return [text for field in noted for text in getattr(field, "examples", None) or ()]


def _aliases(function: Any) -> dict[str, str]:
    """Names that a pydantic model takes beside the aliases that its signature shows, and these."""
    if not (inspect.isclass(function) and issubclass(function, BaseModel)):
        return {}
    named = function.model_config.get("populate_by_name") or function.model_config.get("validate_by_name")
    fields = function.model_fields.items() if named else ()
    return {name: field.alias for name, field in fields if field.alias and field.alias.isidentifier()}
