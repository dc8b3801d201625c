"""A data set: what `datasets` loads of it, and what its card tells."""

import json
import re

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from aipo.export.dataset import card
from aipo.export.run import Exported
from aipo.trace.arrow import SCHEMA
from aipo.trace.filters import Filter
from kit.exports import Run
from kit.markdown import SHOWN, WILD, markup


def test_a_dataset_is_loaded_with_every_column(run: Run):
    done = run.export("dataset")
    assert done == Exported(run.path / "exports" / "dataset", 4, {})
    loaded = load_dataset(str(done.path), split="train")
    assert loaded.column_names == SCHEMA.names
    assert loaded["texts"][0] == ["<user>3@7+1=?</user><assistant>", "583<eos>"]
    original = [segment.token_ids.tolist() for segment in next(run.store.read()).segments]
    assert [segment["token_ids"] for segment in loaded[0]["segments"]] == original
    # Written over, or of the same name elsewhere: `datasets` does not show what it cached before.
    for folder in (None, run.path / "elsewhere" / "dataset"):
        again = run.export("dataset", out=folder, where=Filter(reward=(1.0, None)))
        assert load_dataset(str(again.path), split="train")["trace_id"] == ["g0/0"]


def test_the_folders_name_is_no_pattern(run: Run):
    done = run.export("dataset", out=run.path / "data[v2]*?")
    assert "| `solo` | 3 | 1 | 1 |" in (done.path / "README.md").read_text(encoding="utf-8")


def test_a_step_is_a_file(empty: Run):
    empty.keep(*(empty.solo(f"g{step}/0", "?", "5<eos>", step=step) for step in range(12)))
    done = empty.export("dataset", where=Filter(step=(9, 11)))
    files = sorted(path.name for path in (done.path / "data").iterdir())
    assert files == ["train-00009.parquet", "train-00010.parquet", "train-00011.parquet"]
    assert load_dataset(str(done.path), split="train")["step"] == [9, 10, 11]


def test_the_card_tells_what_there_is(run: Run):
    manifest = {
        "model": "/home/somebody/models/small",
        "python": "3.11.7",
        "packages": {"trl": "1.16.0"},
        "files": {"graph": {"file": "/home/somebody/graphs/consult.py", "fingerprint": "b9bb"}},
    }
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    text = (run.export("dataset").path / "README.md").read_text(encoding="utf-8")
    front = DatasetCard(text).data.to_dict()
    assert front["size_categories"] == ["n<1K"]
    assert "license" not in front and text.startswith("---\n# license: choose one")
    # rollouts, failed, with a reward, tokens, of the policy, of agents
    assert "| `assisted` | 1 | 0 | 1 | 41 | 18 | 5 |\n| `solo` | 3 | 1 | 1 | 39 | 9 | 0 |\n" in text
    assert "| package | version |\n| --- | --- |\n| `trl` | `1.16.0` |\n| `python` | `3.11.7` |\n" in text
    assert "| `graph` | `consult.py` | `b9bb` |\n" in text
    assert "Policy at the start: `small`\n" in text and "somebody" not in text


def test_the_card_names_columns_that_there_are():
    columns = card("x", [], {}).partition("## Columns")[2]
    names = re.findall(r"`([^`]*)`", columns)
    assert len(names) > 10 and set(names) <= set(SCHEMA.names)


def test_a_card_cannot_be_steered():
    text = card("x|<script>`\n# y\u202e", [], {"model": "<b>&amp;|"})
    assert "\n# `x\\|<script>' # y⟨U+202E⟩`\n" in text  # in a code span nothing is markup
    assert "Policy at the start: `<b>&amp;\\|`\n" in text
    parts = {WILD: {"file": WILD, "fingerprint": WILD}}
    manifest = {"model": WILD, "python": WILD, "packages": {WILD: WILD}, "files": parts}
    plain = markup(card("x", [], {"packages": {}}).split("---\n", 2)[2])
    found = markup(card("x", [(WILD, 1, 0, 0, 0, 0, 0)], manifest).split("---\n", 2)[2])
    assert (found.html, found.headings, found.links) == ([], plain.headings, [])
    assert (
        found.code[SHOWN] == 1 + 3 + 3
    )  # kind; package, its version, Python's; part, its file, its fingerprint


@pytest.mark.parametrize(("count", "size"), [(0, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M")])
def test_sizes(count: int, size: str):
    assert f"- {size}\n" in card("x", [("solo", count, 0, 0, 0, 0, 0)], {})
