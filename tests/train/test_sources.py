"""A source of traces: what it calls, and with what."""

from typing import Any

from aipo.method.credit import group
from aipo.method.step_rows import step_rows
from aipo.trace import Trace
from aipo.train.sources import TraceSource
from kit import handmade, tiny

METHOD = tiny.method(scale_by_std=False)


def test_a_source_of_traces_makes_the_rows_of_one_step():
    called: list[Any] = []

    def roll_out(step: int) -> list[Trace]:
        called.append(("ran", step))
        return [
            handmade.trace(handmade.prompt(2), handmade.policy(3), reward=reward, advantage=None)
            for reward in (1.0, 0.0)
        ]

    source = TraceSource(
        traces=roll_out,
        credit=lambda traces: group(traces, METHOD),
        make=lambda credited, metrics: step_rows(credited, METHOD, metrics=metrics),
        keep=lambda step, traces: called.append(("kept", step, [t.advantage for t in traces])),
        advance=lambda version: called.append(("version", version)),
    )
    made = source.rows(3)
    source.updated(7)
    assert called == [("ran", 3), ("kept", 3, [0.5, -0.5]), ("version", 7)]
    assert len(made.rows) == 2
    assert made.metrics["seconds/rows"] >= 0
    assert not source.shared
