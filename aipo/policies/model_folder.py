"""A folder with a model: what can be seen to be wrong with it before anything is loaded."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from aipo.errors import AipoError, LoadError
from aipo.policies.lora import base_of
from aipo.util.files import no_text
from aipo.util.text import error_text
from aipo.util.whole import damage

_WEIGHTS = (".safetensors", ".bin")
_FILES = (*_WEIGHTS, ".json", ".jinja", ".txt", ".model")
_FORM = "allowed a folder as `save_pretrained` writes it: config.json, weights (*.safetensors) and tokenizer"


def check_folder(model: Path | str, *, hashes: bool) -> None:
    """Refuses a folder that no network can be loaded from.

    Raises:
        LoadError: see `flaw_of`.
    """
    if (flaw := flaw_of(model, hashes=hashes)) is not None:
        raise LoadError(f"policy.model: got {str(model)!r}, {flaw}")


@contextmanager
def loading(model: Path | str) -> Generator[None]:
    """Says of what goes wrong that it went wrong with the policy.

    Raises:
        LoadError: there is no such model, or not a usable one.
    """
    try:
        yield
    except AipoError:
        raise
    except Exception as error:  # safetensors, pickle and torch raise their own
        if Path(model).is_absolute() and not Path(model).exists():
            raise LoadError(
                f"policy.model: got {str(model)!r}, which is not there, allowed a folder with a model or a hub name (of a run, "
                "`aipo model --config RUN/config.yaml` makes the model again that it began with)"
            ) from error
        raise LoadError(
            f"policy.model: got {str(model)!r}, allowed a folder or hub name of a causal language model with files that "
            f"are whole (copy or download them again if one is torn): {error_text(error)}"
        ) from error


def flaw_of(model: Path | str, *, hashes: bool) -> str | None:
    """Why no network can be loaded from a folder, and what could; None if nothing speaks against it, or it is a hub name.

    Args:
        hashes: read the files whole that a manifest lists, to compare their hashes.
    """
    folder = Path(model)
    if folder.is_file():
        return f"which is a file, {_FORM}"
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for file in (file for file in files if file.suffix in _FILES):
        with file.open("rb") as content:
            kind = no_text(content.read(40).partition(b"\0")[0])
        if kind is not None:
            return f"in which {file.name} is {kind}, {_FORM}"
    if (base := base_of(folder)) is not None:
        return f"which holds an adapter of {base!r}, allowed whole weights"
    if not (folder / "config.json").is_file():
        others = [file.name for file in files if file.suffix == ".gguf"]
        there = f" but {others[0]}" if others else ""
        of_run = folder / "model"
        return f"which has no config.json{there}, " + (f"allowed {of_run}" if of_run.is_dir() else _FORM)
    if problem := damage(folder, hashes=hashes, of_interest=lambda name: "optimizer" not in name):
        return (
            f"which is not whole ({problem}), allowed what was written there (a run's `aipo train --config "
            "RUN/config.yaml --resume` writes it again from the last checkpoint)"
        )
    return None if any(file.suffix in _WEIGHTS for file in files) else f"which has no weights, {_FORM}"
