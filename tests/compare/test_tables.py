"""The scoreboard: what the terminal says of a matrix."""

import re

from rich.console import Console

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings
from aipo.compare.tables import print_standings, short_amount, shown_measures, with_interval
from aipo.evaluate.statistics import Estimate
from kit.matrices import finish


def screen(matrix: Matrix) -> str:
    results = read_results(matrix)
    console = Console(record=True, width=80, force_terminal=False)
    print_standings(matrix, results, compute_standings(matrix, results), console)
    return console.export_text()


def test_arms_differences_verdicts_costs_and_the_winner(finished: Matrix) -> None:
    text = screen(finished)
    assert "heldout, solo, pass@1" in text and "paired by task and seed" in text and "…" not in text
    number, interval = r"\d\.\d{3}", r"\[\+?\d\.\d{3}, \+?\d\.\d{3}\]"
    assert re.search(rf"twice ★ +2/2 +{number} {interval} +\+{number} {interval} +better ", text)
    assert re.search(rf"twice ★ +{number} +{number} – {number} +53\.9k +160 +1\.7 ", text)
    assert re.search(rf"^ +aipo +{number} ▲ .*▲", text, re.M)
    assert "winner    twice  (ties with aipo; the simplest arm among those that tie with the best)" in text
    assert "missing" not in text and "mixed" not in text
    finished.cell("twice", 10).folder.manifest.write_text('{"packages": {"torch": "3"}}')
    assert "mixed     twice: its seeds differ in env, torch" in screen(finished)


def test_what_is_missing_is_said_and_nobody_wins(matrix: Matrix) -> None:
    finish(matrix.cell("aipo", 10), 0.8)
    matrix.cell("twice", 11).folder.path.mkdir(parents=True)
    matrix.cell("twice", 11).log.write_text("[bold]TrainError: no [markup]\n")
    text = screen(matrix)
    assert "1/2" in text and "no winner yet: not every arm has all of its seeds" in text
    assert "missing   before 10, 11: not run yet" in text
    assert "missing   twice 11: not begun; last said: [bold]TrainError: no [markup]" in text


def test_amounts_are_short() -> None:
    amounts = (0, 950, 12_345, 4_560_000)
    assert [short_amount(amount) for amount in amounts] == ["0", "950", "12.3k", "4.56M"]


def test_numbers_have_their_intervals() -> None:
    one = Estimate(mean=0.5, interval=(0.25, 0.75), by_seed={1: 0.5})
    assert with_interval(one) == "0.500 [0.250, 0.750]"
    assert with_interval(one, sign=True) == "+0.500 [+0.250, +0.750]"
    assert with_interval(Estimate(mean=0.5, interval=None, by_seed={1: 0.5})) == "0.500"
    assert with_interval(None) == "–"


def test_the_ends_of_a_curve_are_shown() -> None:
    def at(setting: str, *ks: int) -> list[Measure]:
        return [Measure(split="easy", setting=setting, k=k) for k in ks]

    several = [*at("solo", 1, 2, 4), *at("assisted", 1, 2)]
    assert shown_measures(several) == [*at("solo", 1, 4), *at("assisted", 1)]
    assert shown_measures(at("solo", 1)) == at("solo", 1)
