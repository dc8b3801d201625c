"""The page "From zero to your own model": every file and every command of it, in order, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "notebooks" / "from_zero.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:^`(?P<file>[\w./]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL = (
    f'aipo() {{ "{sys.executable}" -m aipo.cli "$@"; }}; python() {{ "{sys.executable}" "$@"; }}\nset -e\n'
)


def solo(folder: Path, name: str) -> float:
    """pass@1 without agents, in an evaluation that a command left."""
    result = json.loads((folder / "evaluations" / f"{name}.json").read_text(encoding="utf-8"))
    return result["shelves"]["solo"]["pass_at"]["1"]


def test_every_block_is_a_named_file_or_commands() -> None:
    for block in BLOCK.finditer(PAGE):
        assert (block["file"] is None) == (block["language"] == ""), block[0]


def test_the_page_runs_from_top_to_bottom_and_the_policy_learns(tmp_path: Path) -> None:
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}
    for block in BLOCK.finditer(PAGE):
        if block["file"]:
            file = tmp_path / block["file"]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block["text"], encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-c", SHELL + block["text"]],
            cwd=tmp_path,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{block['text']}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "site" / "index.html").is_file()
    assert solo(tmp_path / "runs" / "start", "eval") < 0.5 < solo(tmp_path / "runs" / "shop", "after")
