"""How a question of the almanac is solved: alone, and with agents at hand."""

import random
import re
from collections.abc import Generator

from envs.almanac.book import Book
from envs.almanac.wording import Question, Statement, answer_line, count_line, read_line, sum_line, turn_line

NEXT = "next step"
"""The request to Reasoning."""
NO_ANSWER = "Answer: unknown"
"""The last line where an agent did not say what is lacking: without a reward, so nobody learns to guess it."""
Script = Generator[str, str, None]
"""What the policy writes, up to a request or to the end. It is sent what follows the request."""
_REPLY = re.compile(r"<(?:feedback:[\w.-]+|notice)>(.*?)</(?:feedback|notice)>", re.DOTALL)


def work(book: Book, question: Question) -> list[str]:
    """The lines of a right solution; the last one is the answer."""
    if question.kind == "sum":
        lines, value, operand = [], question.number, question.operand
    elif question.kind == "entry":
        value, operand = book.value(question.entry), question.number
        lines = [count_line(question.entry, value)]
    else:
        rule = book.rule(question.name)
        value, operand = rule.turn(question.number), rule.constant
        lines = [turn_line(question.name, question.number, value)]
    return [*lines, sum_line(value, operand), answer_line(value + operand)]


def is_true(book: Book, line: Statement | None) -> bool:
    """Is what a line of a derivation claims so: in the almanac, by the rule, by calculation? An answer is no such line."""
    if line is None or line.kind == "answer":
        return False
    if line.kind == "sum":
        return line.number + line.operand == line.value
    if line.kind == "count":
        return line.entry in book.entries and book.value(line.entry) == line.value
    is_rule = line.name in (*book.rules, *book.practice_rules) and len(str(line.number)) == 3
    return is_rule and book.rule(line.name).turn(line.number) == line.value


def replies(written: str) -> list[str]:
    """What agents replied, and notices, in text with tags."""
    return _REPLY.findall(written)


def script(book: Book, question: Question) -> Script:
    """The solution of who asks for what the policy lacks: an entry that is not among the known ones, a sum that carries, each
    step of a rule. A reply is copied, whether it is right or not; without one the answer is unknown."""
    if question.kind == "entry" and question.entry not in book.known:
        return _look_up(question)
    if (
        question.kind == "sum"
        and uncarried(question.number, question.operand) != question.number + question.operand
    ):
        return _check(book, question)
    if question.kind == "rule":
        return _follow(question)
    return _alone(book, question)


def _alone(book: Book, question: Question) -> Script:
    yield "\n".join(work(book, question))


def _look_up(question: Question) -> Script:
    entry = question.entry
    line = read_line((yield _consult("knowledge", f"{entry.unit} of {entry.name}")))
    if line is None or line.kind != "count":
        yield NO_ANSWER
        return
    total = line.value + question.number
    lines = (count_line(entry, line.value), sum_line(line.value, question.number), answer_line(total))
    yield "\n".join(lines)


def _check(book: Book, question: Question) -> Script:
    """What is to be checked is wrong as often as right."""
    a, b = question.number, question.operand
    is_wrong = random.Random(f"almanac {book.seed} claim {a} + {b}").random() < 0.5
    claim = uncarried(a, b) if is_wrong else a + b
    reply = yield _consult("verify", sum_line(a, b, claim))
    line = read_line(reply)
    value = claim if reply == "right" else line.value if line and line.kind == "sum" else None
    yield NO_ANSWER if value is None else f"{sum_line(a, b, value)}\n{answer_line(value)}"


def _follow(question: Question) -> Script:
    turned = read_line((yield _consult("reasoning", NEXT)))
    if turned is None or turned.kind != "turn":
        yield NO_ANSWER
        return
    first = turn_line(question.name, question.number, turned.value)
    added = read_line((yield f"{first}\n{_consult('reasoning', NEXT)}"))
    if added is None or added.kind != "sum":
        yield NO_ANSWER
        return
    yield f"{sum_line(added.number, added.operand, added.value)}\n{answer_line(added.value)}"


def _consult(agent: str, request: str) -> str:
    return f"<consult:{agent}>{request}</consult>"


def uncarried(number: int, operand: int) -> int:
    """number + operand, one digit or ten times one, as it comes out when the carry is forgotten: 47 + 8 is 45."""
    place = 1 if operand < 10 else 10
    digit = number // place % 10
    return number + ((digit + operand // place) % 10 - digit) * place
