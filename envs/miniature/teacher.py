"""The miniature's teacher: what a policy that has agents at hand writes next.

It asks for what a policy may lack: Knowledge for a value that the cold start does not teach, Reasoning for a complement,
Verify for a subtraction, which the cold start's courses teach wrongly. The reply is copied as a line, and the derivation
goes on from it. So where an agent errs, the answer is wrong.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from envs.miniature.arithmetic import unborrowed

NO_ANSWER = "#?"
"""The last line where an agent gave no number."""

_REPLY = re.compile(r"<feedback:[^>]*>(.*?)</feedback>|<notice>.*?</notice>", re.DOTALL)
_VALUE = re.compile(r"=([0-9]+)$")


class _Step(NamedTuple):
    """A line, as the policy would write it alone; and the agent that is asked before it is written, with its request."""

    line: str
    agent: str = ""
    request: str = ""


def next_text(prompt: str, known: Mapping[str, int], written: str) -> str:
    """The policy's text behind `written`, up to its next request or to its end.

    Args:
        prompt: of a task, `3@7+20=?`.
        known: values of the facts that are not asked for.
        written: everything after the prompt, with replies and notices in their tags.
    """
    replies = [match[1] for match in _REPLY.finditer(written)]
    start, *terms = prompt.removesuffix("=?\n").replace("-", "+-").split("+")
    first, *links = re.findall(r"[0-9]+@[0-9]|@[0-9]", start) or [start]
    value, lines = start, list[str]()
    for term in terms if start.isdecimal() else (first, *links, *terms):
        line, agent, request = _step(value, term, known)
        if agent:
            if not replies:
                return "".join(f"{one}\n" for one in lines) + f"<consult:{agent}>{request}</consult>"
            reply, lines = replies.pop(0), []
            line = line if reply in (None, "right") else reply
        lines.append(line)
        if (found := _VALUE.search(line)) is None:
            return "\n".join([*lines[:-1], NO_ANSWER])
        value = found[1]
    return "\n".join([*lines, f"#{value}"])


def _step(value: str, term: str, known: Mapping[str, int]) -> _Step:
    """The step that `term` asks for: a fact, a complement, or an operand to be added to `value`.

    Of a chain's later facts `term` has the column; the row is the last digit of `value`.
    """
    if term.startswith("@"):
        term = value[-1] + term
    if "@" in term:
        return _Step(f"{term}={known[term]}") if term in known else _Step("", "knowledge", term)
    if term.startswith("~"):
        return _Step("", "reasoning", "next")
    if not term.startswith("-"):
        return _Step(f"{value}+{term}={int(value) + int(term)}")
    operand = int(term[1:])
    claim = f"{value}{term}={int(value) - 100 if operand == 99 else unborrowed(int(value), operand)}"
    return _Step(claim, "verify", claim)
