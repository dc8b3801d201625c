r"""Inequalities in one variable as intervals, so that `x \ge 1` and `[1, \infty)` are the same answer."""

import re

from envs.math.writing import plain

_RELATION = re.compile(r"(<=?|>=?|\\(?:lt|le|gt|ge|ne)(?![a-zA-Z]))")
_VARIABLE = re.compile(r"\s*(?:[A-Za-z]|\\(?:alpha|beta|theta|lambda|phi))\s*")
_OR = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*or\s*\}|\bor\b|\\lor\b")
_AND = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*and\s*\}|\band\b|\\(?:land|wedge)(?![a-z])")
_MEMBER = re.compile(r"\s*[A-Za-z]\s*\\in\b")
_BUILT = re.compile(r"\\\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?:\\mid|\||:)(.+)\\\}")
_SIZE = re.compile(r"\s*\|\s*([A-Za-z])\s*\|\s*(<=?|>=?|\\[lg][te](?![a-z]))([^|]+)")
_REALS = re.compile(r"(?:all)?(?:the)?(?:reals|realnumbers)|\\mathbb\{?R\}?")
_TURNED = re.compile(r"^\s*\]([^\[\]]+)\[\s*$")  # ]1, 2[


def as_interval(latex: str) -> str:
    r"""The interval, or the union of them, that tidy LaTeX describes by inequalities; anything else as it is."""
    if built := _BUILT.fullmatch(latex.strip()):
        latex = built[1]
    if _REALS.fullmatch(plain(_MEMBER.sub("", latex))):
        return r"(-\infty, \infty)"
    latex = _SIZE.sub(_bounds, latex)
    latex = re.sub(r"[,;]", ",", _TURNED.sub(r"(\1)", latex))
    parts = [_both(part) for part in _OR.split(latex)]
    if all(part is not None for part in parts):
        return r" \cup ".join(part for part in parts if part)
    return _MEMBER.sub("", latex)


def _bounds(size: re.Match[str]) -> str:
    r"""`-a < x < a` of `|x| < a`."""
    variable, sign, bound = size.groups()
    if sign[0] == "<" or sign[:2] == r"\l":
        return f"-({bound}) {sign} {variable} {sign} {bound}"
    return rf"-({bound}) {sign} {variable} \text{{or}} {variable} {sign} {bound}"


def _both(text: str) -> str | None:
    """One interval: of inequalities that both hold, if one bounds it from below and the other from above."""
    parts = [_interval(part) for part in _AND.split(text)]
    if len(parts) == 1:
        return parts[0]
    below = [part for part in parts if part and part.endswith(r"\infty)")]
    above = [part for part in parts if part and part.startswith(r"(-\infty")]
    if len(parts) != 2 or len(below) != 1 or len(above) != 1:
        return None
    return f"{below[0].rpartition(',')[0]}, {above[0].partition(',')[2]}"


def _interval(text: str) -> str | None:
    pieces = _RELATION.split(text)
    signs, terms = [_plain(sign) for sign in pieces[1::2]], pieces[0::2]
    if not signs or not all(term.strip() for term in terms):
        return None
    if len(signs) == 1:
        return _half_line(terms[0], signs[0], terms[1])
    if len(signs) == 2 and _VARIABLE.fullmatch(terms[1]):
        low, high = terms[0], terms[2]
        if {sign[0] for sign in signs} == {">"}:
            low, high, signs = high, low, [sign.replace(">", "<") for sign in reversed(signs)]
        if {sign[0] for sign in signs} == {"<"}:
            return f"{_open(signs[0])}{low.strip()}, {high.strip()}{_close(signs[1])}"
    return None


def _half_line(left: str, sign: str, right: str) -> str | None:
    if _VARIABLE.fullmatch(right) and not _VARIABLE.fullmatch(left):
        left, right, sign = right, left, sign.translate(str.maketrans("<>", "><"))
    if not _VARIABLE.fullmatch(left) or _VARIABLE.fullmatch(right):
        return None
    bound = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}", "", right).strip()
    if sign == "!=":
        return rf"(-\infty, {bound}) \cup ({bound}, \infty)"
    if sign[0] == "<":
        return rf"(-\infty, {bound}{_close(sign)}"
    return rf"{_open(sign)}{bound}, \infty)"


def _plain(sign: str) -> str:
    return {r"\lt": "<", r"\gt": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!="}.get(sign, sign)


def _open(sign: str) -> str:
    return "[" if "=" in sign else "("


def _close(sign: str) -> str:
    return "]" if "=" in sign else ")"
