"""The report page: the numbers it was given, no script, nothing loaded."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from aipo.compare import report
from aipo.compare.examples import Example
from aipo.compare.figures import Arm, Score, learning_curves
from aipo.compare.report import SPLITS, Cell, Report, write_demo_report, write_report
from aipo.errors import RunError
from aipo.run import RunFolder
from aipo.trace import Mode, Role, StopReason, Trace, segment
from aipo.trace.store import TraceStore
from aipo.util.files import write_json


def score(split: str, setting: str, one: float, eight: float) -> Score:
    return Score(
        split=split,
        setting=setting,
        pass_at={1: one, 8: eight},
        interval={1: (one / 2, one), 8: (eight / 2, eight)},
    )


def metrics(level: float) -> list[dict[str, float | None]]:
    return [
        {
            "step": step,
            "reward/solo": level,
            "reward/assisted": None if step % 2 else 0.9,
            "consults/verify": 0.5,
            "consults/knowledge": 1.5,
            "loss_share/policy": 0.75,
            "loss_share/agent": 0.25,
            "active_share": 0.5,
        }
        for step in range(1, 61)
    ]


def example(text: str) -> Example:
    trace = Trace(
        trace_id="t",
        run_id="r",
        group_id="g",
        task_id="3@7",
        step=1,
        index=0,
        mode=Mode.ASSISTED,
        task={},
        seed=0,
        sampling={},
        segments=(segment(Role.AGENT, "knowledge", [ord(c) for c in text]),),
        reward=1.0,
        stop_reason=StopReason.EOS,
    )
    return Example(caption="After training, alone: right", trace=trace)


def made(**rest: object) -> Report:
    values: dict[str, object] = {
        "title": "A & B",
        "facts": {"seed": "7"},
        "before": Arm(name="before", scores=[score("heldout", "solo", 0.0, 0.02)]),
        "arms": [
            Arm(
                name="aipo",
                metrics=metrics(0.8),
                scores=[
                    score("heldout", "solo", 0.82, 0.99),
                    score("heldout", "assisted", 0.97, 1.0),
                    score("easy", "solo", 0.93, 0.98),
                ],
            ),
            Arm(name="grpo", metrics=metrics(0.2), scores=[score("heldout", "solo", 0.01, 0.03)]),
        ],
        "examples": [example("582")],
        "decode": lambda ids: "".join(map(chr, ids)),
        "drawing": {"nodes": ["policy", "<b>"], "edges": []},
    }
    return Report(**(values | rest))  # type: ignore[arg-type]


def text_tokenizer() -> PreTrainedTokenizerFast:
    """One id per character."""
    vocabulary = {character: i for i, character in enumerate("0123456789@=+?#\n")}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="#", pad_token="#")


VOID = ("meta", "br", "path", "circle", "rect")


class _Page(HTMLParser):
    """Collects tags, and attributes that could load or run something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.active += [
            (k, v) for k, v in attrs if k in ("src", "href", "srcset", "style") or k.startswith("on")
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag


def test_the_page_has_the_numbers_it_was_given(tmp_path: Path) -> None:
    path = write_report(tmp_path, made())
    assert path == tmp_path / "report.html"
    html = path.read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in html and "<dd>7</dd>" in html
    assert "<b>0.82</b><small>[0.41, 0.82]</small>" in html
    assert 'class="after">0.82<' in html and 'class="rival head c2">0.01<' in html
    assert html.count('<svg class="chart"') == 5 + 2  # no rollouts with forbidden tags: no curve of them
    assert (
        "After training, alone: right" in html
        and '<span class="text agent0" title="knowledge">582</span>' in html
    )


def test_the_page_loads_and_runs_nothing(tmp_path: Path) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=y>"
    odd = Arm(name="<i>x</i>", metrics=[{"step": 1, "consults/<b>": 1.0}], scores=[])
    html = write_report(
        tmp_path, made(title=hostile, facts={hostile: hostile}, arms=[odd], examples=[example(hostile)])
    ).read_text(encoding="utf-8")
    page = _Page(html)
    assert not page.tags & {"script", "img", "link", "iframe", "object", "i"}
    assert page.active == [] and page.open == []
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html


def test_the_page_of_a_demo_is_made_from_its_run_folders(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "aipo")
    tokenizer = text_tokenizer()
    tokenizer.save_pretrained(run.model)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in metrics(0.5)), encoding="utf-8")
    write_json(run.graph, {"nodes": ["policy"], "edges": []})
    for folder, name, answer, reward in (
        (RunFolder(tmp_path), "before", "114", 0.0),
        (run, "after", "582", 1.0),
    ):
        token_ids = tokenizer.encode(f"3@7={answer}")
        piece = segment(Role.POLICY, "policy", token_ids, logprobs=[-0.1] * len(token_ids))
        with TraceStore(folder.evaluation(name).with_suffix("")) as store:
            store.append(replace(example("").trace, mode=Mode.SOLO, segments=(piece,), reward=reward))
    result = {"heldout": {"solo": {"pass_at": {"1": 0.25}, "interval": {"1": [0.2, 0.3]}}}}
    path = write_demo_report(
        tmp_path,
        arms=["aipo"],
        before=result,
        after={"aipo": result},
        summary={"seed": 3, "wall_s": 61.0},
    )
    html = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert "<dd>3</dd>" in html and "<dd>1 min 1 s</dd>" in html
    assert ">3@7=114</span>" in html and ">3@7=582</span>" in html
    assert "Before training, alone: wrong" in html and "After training, alone: right" in html


def test_rows_of_the_table_are_split_by_split() -> None:
    (first, rows), (second, _) = report.table(made())
    assert (first, second) == (SPLITS["heldout"], SPLITS["easy"])
    assert [row.label for row in rows] == ["alone, pass@1", "alone, pass@8", "with agents, pass@1"]
    assert rows[0].cells == (Cell(0.0, (0.0, 0.0)), Cell(0.82, (0.41, 0.82)), Cell(0.01, (0.005, 0.01)))
    assert rows[2].cells == (None, Cell(0.97, (0.485, 0.97)), None)


def test_an_unknown_split_is_shown_by_its_own_name() -> None:
    other = Arm(name="before", scores=[score("my-split", "solo", 0.1, 0.2)])
    assert [title for title, _ in report.table(made(before=other, arms=[Arm(name="aipo")]))] == ["my-split"]


def test_nothing_measured_is_a_page_still(tmp_path: Path) -> None:
    empty = made(before=Arm(name="before"), arms=[Arm(name="aipo")], examples=[], drawing=None)
    assert report.headline(empty) is None
    html = write_report(tmp_path, empty).read_text(encoding="utf-8")
    assert "hero" not in html.split("</style>")[1] and html.count("nothing recorded") == 5


def test_an_arm_reads_an_evaluation_as_its_file_has_it() -> None:
    result = {"pass_at": {"1": 0.5, "8": 0.75}, "interval": {"1": [0.4, 0.6], "8": [0.7, 0.8]}, "counts": {}}
    arm = Arm.of("aipo", {"heldout": {"solo": result}})
    assert arm.score("heldout", "solo") == Score(
        split="heldout",
        setting="solo",
        pass_at={1: 0.5, 8: 0.75},
        interval={1: (0.4, 0.6), 8: (0.7, 0.8)},
    )
    assert arm.score("heldout", "assisted") is None


def test_a_number_without_an_interval_stands_alone(tmp_path: Path) -> None:
    results = {
        "pass_at": {"1": 0.5, "8": 0.75, "64": None},
        "interval": {"1": None, "8": [0.7, 0.8], "64": None},
    }
    arm = Arm.of("aipo", {"heldout": {"solo": results}})
    assert arm.scores[0].pass_at == {1: 0.5, 8: 0.75} and arm.scores[0].interval == {8: (0.7, 0.8)}
    html = write_report(tmp_path, made(before=arm, arms=[Arm(name="x")])).read_text(encoding="utf-8")
    assert "<b>0.50</b></td>" in html and "<b>0.75</b><small>" in html and 'class="band c0"' not in html


def test_an_agent_has_one_colour_in_curves_and_traces(tmp_path: Path) -> None:
    rows = [{"step": 1, "consults/verify": 1.0, "consults/unknown": 0.0, "consults/zeno": 0.5}]
    html = write_report(tmp_path, made(arms=[Arm(name="aipo", metrics=rows)])).read_text(encoding="utf-8")
    names = re.findall(r'class="name k(\d)"[^>]*>(\w+)<', html)
    assert sorted(names) == [("1", "verify"), ("2", "zeno"), ("3", "unknown")]
    assert '<span class="text agent0" title="knowledge">' in html


def test_steps_without_a_value_are_gaps() -> None:
    (solo, assisted, *_) = learning_curves([Arm(name="aipo", metrics=metrics(0.5))], ["verify"])
    raw = r'class="raw c1" d="([^"]*)"'
    assert re.findall(raw, solo)[0].count("M") == 1
    assert re.findall(raw, assisted)[0].count("M") == 30


@pytest.mark.parametrize(("seconds", "said"), [(42.4, "42 s"), (312.0, "5 min 12 s"), (59.6, "1 min 0 s")])
def test_wall_time_reads_as_people_say_it(seconds: float, said: str) -> None:
    assert report._minutes(seconds) == said


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="allowed a folder that can be written"):
        write_report(tmp_path / "file", made())
