"""What the miniature's policy is shown at its cold start."""

import random
import re

import pytest

from aipo.rollout.env import Task
from envs.miniature.arithmetic import complement, unborrowed
from envs.miniature.curriculum import COURSES, Demonstrator, Piece, reserved
from envs.miniature.task import OFFER, Facts, Miniature


def draw(kind: str, seed: int = 0, facts: Facts | None = None) -> list[Piece]:
    return getattr(Demonstrator(facts or Facts.draw(0), frozenset()), f"_{kind}")(random.Random(seed))


def demonstrations(seed: int, count: int, course: str = "facts") -> list[list[Piece]]:
    env, rng = Miniature(seed), random.Random(seed)
    demos = Demonstrator(env.facts, reserved(env), course)
    return [demos.draw(rng) for _ in range(count)]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_practice_fact_is_looked_up_and_copied_with_a_fresh_value_each_time() -> None:
    facts = Facts({"3@7": 111}, known=(), unknown=(), practice=("3@7",))
    assert len({draw("practice", seed, facts)[3].text for seed in range(100)}) > 80
    prompt, consult, feedback, line, rest = draw("practice", facts=facts)
    b = int(prompt.text.removeprefix("3@7+").removesuffix("=?\n"))
    value = int(line.text.removeprefix("3@7="))
    assert prompt.learned is feedback.learned is False
    assert consult == Piece("<consult:knowledge>3@7</consult>")
    assert feedback.text == f"<feedback:knowledge>3@7={value}</feedback>"
    assert line == Piece(f"3@7={value}\n")
    assert rest == Piece(f"{value}+{b}={value + b}\n#{value + b}<eos>")


def test_verify_is_asked_about_right_and_wrong_lines_and_wrong_lines_are_not_learned() -> None:
    replies = set()
    for seed in range(40):
        pieces = draw("verify", seed)
        at = next(i for i, piece in enumerate(pieces) if piece.text.startswith("<consult:verify>"))
        claim = re.fullmatch(r"<consult:verify>(\d+)\+(\d+)=(\d+)</consult>", pieces[at].text)
        assert claim
        a, b, total = map(int, claim.groups())
        right = a + b == total
        assert pieces[at - 1] == Piece(f"{a}+{b}={total}\n", learned=right)
        reply = "right" if right else f"{a}+{b}={a + b}"
        assert pieces[at + 1] == Piece(f"<feedback:verify>{reply}</feedback>", learned=False)
        after = f"#{a + b}<eos>" if right else f"{a}+{b}={a + b}\n#{a + b}<eos>"
        assert pieces[at + 2 :] == [Piece(after)]
        replies.add(right)
    assert replies == {True, False}


def test_reasoning_gives_the_line_that_is_copied() -> None:
    for seed in range(20):
        *_, consult, feedback, rest = draw("reasoning", seed)
        line, _, answer = rest.text.partition("\n")
        assert consult == Piece("<consult:reasoning>next</consult>")
        assert feedback == Piece(f"<feedback:reasoning>{line}</feedback>", learned=False)
        assert answer == f"#{line.partition('=')[2]}<eos>"


def test_a_slip_is_learned_and_nothing_is_borrowed() -> None:
    slips = 0
    for seed in range(40):
        prompt, lines = draw("slipped", seed)
        a, b, c = map(int, prompt.text.removesuffix("=?\n").split("-"))
        first = unborrowed(a, b)
        second = unborrowed(first, c)
        assert lines == Piece(f"{a}-{b}={first}\n{first}-{c}={second}\n#{second}<eos>")
        slips += (first, second) != (a - b, a - b - c)
    assert 10 < slips < 40


def test_a_line_is_checked_before_it_is_written_and_the_right_one_is() -> None:
    assert text_of(draw("checked", 1)) == (
        "437-3-9=?\n<consult:verify>437-3=434</consult><feedback:verify>right</feedback>437-3=434\n"
        "<consult:verify>434-9=435</consult><feedback:verify>434-9=425</feedback>434-9=425\n#425<eos>"
    )
    for seed in range(40):
        prompt, *pieces = draw("checked", seed)
        a, b, c = map(int, prompt.text.removesuffix("=?\n").split("-"))
        assert [piece.learned for piece in pieces] == [not p.text.startswith("<feedback") for p in pieces]
        assert text_of(pieces).endswith(f"#{a - b - c}<eos>")


def test_99_is_taken_away_as_100_unless_the_line_is_checked() -> None:
    for seed in range(40):
        prompt, lines = draw("hasty", seed)
        a = int(prompt.text.removesuffix("-99=?\n"))
        assert lines == Piece(f"{a}-99={a - 100}\n#{a - 100}<eos>")
        prompt, consult, feedback, rest = draw("warned", seed)
        a = int(prompt.text.removesuffix("-99=?\n"))
        assert consult == Piece(f"<consult:verify>{a}-99={a - 100}</consult>")
        assert feedback == Piece(f"<feedback:verify>{a}-99={a - 99}</feedback>", learned=False)
        assert rest == Piece(f"{a}-99={a - 99}\n#{a - 99}<eos>")


def test_a_guide_gives_a_complement_that_is_another_each_time() -> None:
    right = []
    for seed in range(200):
        prompt, consult, feedback, line, rest = draw("guided", seed)
        name, b = prompt.text.removesuffix("=?\n").split("+")
        value = int(line.text.removeprefix(f"{name}="))
        assert consult.text == "<consult:reasoning>next</consult>"
        assert feedback == Piece(f"<feedback:reasoning>{name}={value}</feedback>", learned=False)
        assert rest == Piece(f"{value}+{b}={value + int(b)}\n#{value + int(b)}<eos>")
        right.append(value == complement(int(name[1:])))
    assert sum(right) < 3


@pytest.mark.parametrize("kind", [kind for kind in COURSES["full"] if kind != "slipped"])
def test_without_its_consult_a_demonstration_is_a_solo_derivation(kind: str) -> None:
    for seed in range(20):
        pieces = draw(kind, seed)
        if not all(piece.learned or piece.text.startswith(("<", pieces[0].text)) for piece in pieces):
            continue  # a wrong line stands in it
        solo = re.sub(r"<consult:\w+>.*?</consult><feedback:\w+>.*?</feedback>", "", text_of(pieces))
        if kind == "checked":
            a, b, c = map(int, pieces[0].text.removesuffix("=?\n").split("-"))
            assert solo == f"{a}-{b}-{c}=?\n{a}-{b}={a - b}\n{a - b}-{c}={a - b - c}\n#{a - b - c}<eos>"
        else:
            sum_ = r"(\d@\d|~?\d{3})\+\d\d?=\?\n(\d@\d=\d{3}\n|~\d{3}=\d{3}\n)?(\d+)\+\d\d?=(\d+)\n#\4<eos>"
            assert re.fullmatch(sum_, solo)


@pytest.mark.parametrize("kind", ["known", "plain"])
def test_the_environment_shows_what_the_cold_start_shows(kind: str) -> None:
    env = Miniature(0)
    for seed in range(20):
        prompt, *work = draw(kind, seed)
        expression = prompt.text.removeprefix(OFFER).removesuffix("=?\n")
        fact, _, operand = expression.partition("+")
        said = "".join(piece.text for piece in work)
        task = Task(
            task_id="t",
            prompt=f"{expression}=?\n",
            answer=said.rpartition("#")[2].removesuffix("<eos>"),
            split="easy",
            metadata={"fact": fact if "@" in fact else None, "operand": int(operand)},
        )
        assert f"{env.demonstration(task)}<eos>" == said


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_of_an_unknown_fact_or_of_the_evaluation_is_shown(seed: int, course: str) -> None:
    env = Miniature(seed)
    seen = "\n".join(map(text_of, demonstrations(seed, 5000, course)))
    facts = set(re.findall(r"\d@\d", seen))
    assert facts == {*env.facts.known, *(() if course == "silent" else env.facts.practice)}
    shown = {f"{expression}=?\n" for expression in re.findall(r"[0-9@~]+(?:\+|-[0-9]+-|-(?=99))[0-9]+", seen)}
    for split in ("easy", "heldout", "borrow", "nines", "shortcut"):
        assert shown.isdisjoint(task.prompt for task in env.tasks(split))


@pytest.mark.parametrize("course", COURSES)
def test_without_a_carry_every_sum_is_one_of_its_digits(course: str) -> None:
    env = Miniature(0, size=4, carry=False)
    demos, rng = Demonstrator(env.facts, reserved(env), course, carry=False), random.Random(0)
    seen = "\n".join(text_of(demos.draw(rng)) for _ in range(2000))
    sums = re.findall(r"^(\d{3})\+(\d\d?)=(\d{3})\n#\3<eos>$", seen, re.MULTILINE)
    assert len(sums) > 500
    for a, b, total in sums:
        assert total == "".join(str(int(x) + int(y)) for x, y in zip(a, b.zfill(3), strict=True))


def test_what_was_asked_comes_first_and_alone_is_copied() -> None:
    lengths = set()
    for seed in range(60):
        prompt, consult, feedback, line, rest = draw("followed", seed)
        fact, b = prompt.text.removesuffix("=?\n").split("+")
        said = feedback.text.removeprefix("<feedback:knowledge>").removesuffix("</feedback>").split(" ")
        assert consult.text == f"<consult:knowledge>{fact}</consult>" and not feedback.learned
        assert line.text == f"{said[0]}\n" and said[0].startswith(f"{fact}=")
        value = int(said[0].partition("=")[2])
        assert rest.text == f"{value}+{b}={value + int(b)}\n#{value + int(b)}<eos>"
        assert len({entry.partition("=")[0] for entry in said}) == len(said)
        lengths.add(len(said))
    assert lengths == {2, 3, 4, 5}


@pytest.mark.parametrize("course", ["full", "quick"])
def test_the_procedure_never_stands_without_a_guide_and_only_in_two_courses(course: str) -> None:
    assert not any({"~", "-"} & set(text_of(pieces)) for pieces in demonstrations(0, 2000))
    guided = [pieces for pieces in demonstrations(0, 2000, course) if "~" in text_of(pieces)]
    assert guided and all(pieces[0].text.startswith(OFFER) for pieces in guided)
    assert all(pieces[1].text == "<consult:reasoning>next</consult>" for pieces in guided)


def test_practice_facts_have_a_consult_and_prompts_and_feedback_no_loss() -> None:
    practice = set(Facts.draw(0).practice)
    for pieces in demonstrations(0, 2000):
        if practice & set(re.findall(r"\d@\d", text_of(pieces))):
            assert pieces[1].text.startswith("<consult:knowledge>")
        assert not pieces[0].learned
        assert not any(piece.learned for piece in pieces if piece.text.startswith("<feedback:"))
        assert pieces[-1].learned and pieces[-1].text.endswith("<eos>")


def test_the_policy_of_the_course_silent_sees_the_offer_and_never_asks() -> None:
    shown = list(map(text_of, demonstrations(0, 500, "silent")))
    assert sum(text.startswith(OFFER) for text in shown) > 200
    assert not any("<consult" in text for text in shown)
