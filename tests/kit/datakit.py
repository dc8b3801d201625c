"""Real benchmark items, where they are: beside the project, never in it."""

import os
from pathlib import Path

from kit.parts import lacking

FILES = {
    "gsm8k": "gsm8k_test.jsonl",
    "math500": "math500.jsonl",
    "aime24": "aime24.jsonl",
    "aime25": "aime25.jsonl",
}


def real_splits() -> dict[str, str]:
    """Split → file, in the folder that AIPO_DATA names, else in `shared/data` beside the checkout."""
    folder = Path(os.environ.get("AIPO_DATA") or Path(__file__).parents[3] / "shared" / "data")
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        lacking("data", f"real items: {folder} has no {', '.join(missing)}; AIPO_DATA names another folder")
    return {split: str(folder / name) for split, name in FILES.items()}
