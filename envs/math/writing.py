r"""One writing for the many ways in which an answer is written: `tidy` for LaTeX, `plain` for text.

math-verify reads mathematics, but not colours, bold letters, `3e5` or `58\,500`. They are tidied before it reads.
"""

import re

_SYMBOLS = {
    **dict.fromkeys("\u2212\u2013", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2007~", " "),
    "\u00d7": r"\times ",
    "\u00b7": r"\cdot ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u2260": r"\ne ",
    "\u221e": r"\infty ",
    "\u00b0": r"^\circ ",
    "\u03c0": r"\pi ",
}
_REWRITTEN = [
    (r"\\[()]|(?<!\\)\$", ""),
    (r"\\(?:displaystyle|textstyle|large|Large|small|bf|it|rm)\b", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"\\(?:neq|not\s*=)", r"\\ne "),
    (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le "),
    (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\degree\b", r"^\\circ"),
    (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ"),
    (r":=", "="),
    (r"\{:\}", ":"),
    (r"(?<=\d)\s*\\?(?:\{,\}|,)?(?<!\\)\\[,! :;](?=\d{3}(?!\d))", ""),  # thousands: 58\,500 and 58,\!500
    (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ""),
    (r"(?<=\d)\{,\}(?=\d)", "."),
    (r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])", " "),
    (r"(?<=\d)\s*(?:[eE]|\\mathrm\{e\})([+-]?)0*(\d+)(?![\d.])", r"\\times 10^{\1\2}"),
]
_STYLES = "mathbf|boldsymbol|mathsf|mathit|bm|underline|boxed|fbox"
TEXTS = "text|textbf|textit|textrm|textsf|mbox|hbox|mathrm|operatorname|emph"
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_WRAPPER = re.compile(rf"\\(?:(?P<style>{_STYLES})|{TEXTS})\s*\{{")
_MOST_BRACES = 4  # around a whole answer
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace belongs to the answer
TEXT = re.compile(rf"\\(?:{TEXTS})\s*\{{([^{{}}]*)\}}")
_LABEL = re.compile(rf"^\s*\\(?:{TEXTS})\s*\{{[^{{}}]*\}}\s*(?:=|:)|^\s*\\(?:{TEXTS})\s*\{{[^{{}}]*:\s*\}}")


def tidy(latex: str) -> str:
    """LaTeX without colours, bold letters, sizes, thin spaces and thousands, with `3e5` as a power of ten."""
    for symbol, command in _SYMBOLS.items():
        latex = latex.replace(symbol, command)
    latex = _COLOUR.sub("", latex)
    for pattern, replacement in _REWRITTEN:
        latex = re.sub(pattern, replacement, latex)
    latex = _LABEL.sub("", _unwrap(latex)).strip().removesuffix(".").strip()
    for _ in range(_MOST_BRACES):
        if not latex.startswith("{") or until_closed(latex, 1) != latex[1:-1]:
            break
        latex = latex[1:-1].strip()
    return latex


def _unwrap(latex: str) -> str:
    r"""LaTeX without the commands around bold letters and boxes, and without those of text around mathematics."""
    for wrapper in reversed(list(_WRAPPER.finditer(latex))):
        content = until_closed(latex, wrapper.end())
        if content is not None and (wrapper["style"] or re.search(r"^[\d(]|[\\$=+]", content)):
            end = wrapper.end() + len(content) + 1
            latex = f"{latex[: wrapper.start()]}{{{content}}}{latex[end:]}"
    return latex


def until_closed(text: str, start: int) -> str | None:
    """Text from `start` to the brace that closes what is open there; None where nothing does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def plain(latex: str) -> str:
    """The text of tidy LaTeX without spaces. The case of letters stays, except in words."""
    text = TEXT.sub(r"\1", latex).strip().removesuffix(".")
    text = re.sub(r"(?<=\d)\s+(?=\d)", "_", text)  # 1 1/4 is not 11/4
    text = re.sub(r"([\^_])\{(\w)\}", r"\1\2", re.sub(r"\s", "", text.replace(r"\%", "%")))
    if re.fullmatch(r"\(?[A-Za-z]\)?", text):
        return text.strip("()").upper()
    return text.lower() if re.fullmatch(r"[^\W\d_]{2,}(?:[.,'-][^\W\d_]+)*\.?", text) else text
