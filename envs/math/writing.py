r"""One writing for the many ways in which an answer is written: `tidy` for LaTeX, `plain` for text.

math-verify reads mathematics, but not colours, bold letters, `3e5` or `58\,500`. They are tidied before it reads.
"""

import re
from itertools import accumulate
from unicodedata import normalize

_SYMBOLS = {
    **dict.fromkeys("\u2010\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u00a0~", " "),
    "\u00d7": r"\times ",
    "\u00f7": "/",
    "\u00b7": r"\cdot ",
    "\u00b1": r"\pm ",
    "\u2260": r"\ne ",
    "\u2261": r"\equiv ",
    "\u221e": r"\infty ",
    "\u00b0": r"^\circ ",
    "\u03c0": r"\pi ",
    "\u03bc": r"\mu ",
    "\u211d": r"\mathbb{R}",
    "\u2205": r"\emptyset ",
    "\u2236": ":",
    "\u2019": "'",
}
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_POWER = re.compile("[\u00b2\u00b3\u00b9\u2070-\u207b\u207f]+")
_SIMPLE = re.compile("[\u00bc-\u00be\u2150-\u215e]")  # ½
_ROOT = re.compile("([\u221a-\u221c])\\s*(\\d+(?:\\.\\d+)?|[A-Za-z]|\\([^()]*\\))")
_ROOTS = {"\u221a": "", "\u221b": "[3]", "\u221c": "[4]"}
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")  # of another script
_OVERLINED = re.compile("(?:\\d\u0305)+")
_FUNCTIONS = "ln|log|lg|exp|sin|cos|tan|arcsin|arccos|arctan"
_STYLES = (
    "mathbf|boldsymbol|mathsf|mathit|bm|pmb|bold|underline|boxed|fbox|framebox|mathtt|mathnormal|ensuremath|mathop|mathbin|"
    "underbrace|smash"
)
TEXTS = "text|textbf|textit|textrm|textsf|texttt|textup|textnormal|textsc|mbox|hbox|mathrm|operatorname|emph"
_REWRITTEN = [
    (r"^\s*([*`\"']{1,3})(.*?)\1\s*$", r"\2"),  # **18**
    (r"\\\\\s*\[[^\]]*\]", r"\\\\"),
    (rf"\\(?:{_STYLES}|{TEXTS})\s+(?=\d)", ""),
    # money
    (r"\\(?:text|mathrm)\s*\{\s*\\?([$%])\s*\}", r"\\\1"),
    (r"\\(?:mathdollar|textdollar)(?![a-z])|\b(?:US|USD)\s*\\\$|\b(?:USD|US\$)\s*(?=\d)", r"\\$"),
    (rf"\\(?:{TEXTS})\s*\{{\s*USD\s*\}}\s*(?=\d)", r"\\$"),
    (r"\\pounds(?![a-z])", "£"),
    (r"(?:\\(?:text|mathrm)\s*\{\s*Rs\.?\s*\}|\bRs\.?)\s*(?=\d)", "₹"),
    (r"\bEUR\s*(?=\d)|\\euro(?![a-z])", "€"),
    # what an answer only looks like
    (r"(?<!\\)\\[()\[\]]|(?<!\\)\$", ""),
    (r"\{\s*\\rm\s+([^{}]*)\}|\\rm\s*\{([^{}]*)\}", lambda m: rf"\text{{{m[1] or m[2]}}}"),
    (
        r"\\(?:(?:display|text|script|scriptscript)style|tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|"
        r"[hH]uge|bf|it|rm|sf|tt)(?![A-Za-z])",
        "",
    ),
    (r"(?<=[\d\s])\{\s*(\\text\s*\{[^{}]*\})\s*\}", r"\1"),
    (r"\\(?:left|right)\s*\.", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"\\[hv]?phantom\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}", ""),
    (r"(?:\\\\|\\(?:checkmark|square|blacksquare|qed|ldotp)(?![a-z])|\\[,;!]|(?<!\\)[,;]|\s)+$", ""),
    # one command for each meaning
    (r"\\[lr]vert(?![a-z])", "|"),
    (r"\\([lr])brace(?![a-z])", lambda m: {"l": r"\{", "r": r"\}"}[m[1]]),
    (r"\\langle(?![a-z])", "("),
    (r"\\rangle(?![a-z])", ")"),
    (r"\\(?:neq|not\s*=)|(?<=[A-Za-z] )!=", r"\\ne "),  # n!=6 may be a factorial
    (r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])|\u2264", r"\\le "),
    (r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])|\u2265", r"\\ge "),
    (r"\\varnothing(?![a-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\\(?:backslash|smallsetminus)(?![a-z])", r"\\setminus "),
    # fractions, functions and powers
    (r"\\(?:[dtc]frac|nicefrac|sfrac)", r"\\frac"),
    (r"\\[dt]?(frac|binom)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}"),
    (r"\\frac\s*\\pi\s*(\d)", r"\\frac{\\pi}{\1}"),
    (r"(\d+)\u2044(\d+)", r"\\frac{\1}{\2}"),
    (r"(?<=[\d\s-])\{(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})\}", r"\1"),
    (r"\{([^{}]+?)\\choose(?![a-z])([^{}]+?)\}", r"\\binom{\1}{\2}"),
    (r"(?<![A-Za-z])C\((\d+),\s*(\d+)\)", r"\\binom{\1}{\2}"),
    (r"(?:\{\})?[_^]\{?(\d+)\}?\s*C_\{?(\d+)\}?", r"\\binom{\1}{\2}"),
    (rf"\\(?:mathrm|operatorname|text)\s*\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
    (r"\\lg(?![a-z])", r"\\log_{10}"),
    (r"\\log_\{?e\}?", r"\\ln "),
    (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<=[\w)}])\s*\*\*\s*\{?(-?\w+)\}?", r"^{\1}"),
    (r"(?<=[\w)}])\s*(?:\*|\\ast(?![a-z]))\s*(?=[\w(\\])", r" \\cdot "),
    (r"\^(-\d+|\d{2,})(?!\d|\.\d)", r"^{\1}"),
    (
        r"(?<=\d)(?:st|nd|rd|th)\b|\{\}\s*(?=\^)|(?<=\d)\s*\^\s*\{?\s*\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?",
        "",
    ),
    (r"\^\s*\{?\s*(?:\\(?:text|mathrm)\s*\{\s*o\s*\}|o)\s*\}?(?![A-Za-z])|\\degrees?(?![a-z])", r"^\\circ "),
    (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
    (r"(?i)\bper\s+cent\b", "percent"),
    (r"(?i)(?:\\text\s*\{\s*(?:minus|negative)\s*\}|(?:^|(?<=\{))\s*(?:minus|negative)\b)\s*(?=[\d\\])", "-"),
    (r"(?i)\\text\s*\{\s*infinity\s*\}", r"\\infty "),
    (r":=", "="),
    (r"(?<![A-Za-z])\{\s*([.-])\s*\}", r"\1"),
    (r"\\colon(?![a-z])|(?:\\math(?:bin|rel)\s*)?\{\s*:\s*\}", ":"),
    (r"\\text\s*\{\s*(?:[.;]\s*|(,[\s,]*(?:and|or)?\s*))\}", lambda m: m[1] or ""),
    (r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=\d+$)", ":"),
    # digits
    (r"(?<=\d)\s*\\?(?:\{,\}|,)?(?<!\\)\\[,! :;]\s*(?=\d{3}(?!\d))", ""),  # thousands: 58\,500 and 58,\!500
    (r"(?<=\d)(?:\{,\}|')(?=\d{3}(?!\d))", ""),
    (r"(?<=\d)\{,\}(?=\d)", "."),
    (r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])", " "),
    (r"\\(?:text|mathrm)\s*\{\s*([eE])\s*\}(?=[+-]?\d)", "e"),
    (r"(?<=\d)\s*(?:[eE]|\\mathrm\{e\})([+-]?)0*(\d+)(?!\d|\.\d)", r"\\times 10^{\1\2}"),
    (
        r"(?<![\d.])(\d{0,9}\.\d{0,9}?)(\d{1,9}?)\2{2,}\d{0,2}?\s*(?:\.\.\.+|\\[lc]?dots(?![a-z]))",
        r"\1\\overline{\2}",  # 0.333...
    ),
    (r"^(-?\d*\.\d*)\((\d+)\)$", r"\1\\overline{\2}"),
]
_LEADING = re.compile(
    r"^\s*(?:(?:\\(?:therefore|implies|Rightarrow|rightarrow|to|approx|sim)(?![A-Za-z])|=|≈)\s*|"
    rf"(?i:(?:\\(?:{TEXTS})\s*\{{\s*)?(?:the\s+)?(?:final\s+)?(?:answer|ans|solution)\b\.?(?:\s+is\b)?\s*:?\s*\}}?\s*[:=]?\s*(?=[-\d\\$(]))|"
    rf"\\(?:{TEXTS})\s*\{{\s*(?i:about|approximately|exactly)\s*\}})+"
)
_BLANKS = re.compile(r"\s+")
_COLOUR = re.compile(
    r"\\(?:text|math)?colou?r\s*(?:\[[^\]]*\]\s*)?\{[^{}]*\}|\\f?colorbox\s*(?:\{[^{}]*\}\s*)+(?=\{)|"
    r"\\bbox\s*(?:\[[^\]]*\])?|\\cssId\s*\{[^{}]*\}"
)
_WRAPPER = re.compile(rf"\\(?:(?P<style>{_STYLES})|{TEXTS})\s*\{{")
_MOST_BRACES = 4  # around a whole answer
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace belongs to the answer
IN_TEXT = rf"\\(?:{TEXTS})\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}"
TEXT = re.compile(IN_TEXT)
_LABEL = re.compile(rf"^\s*\\(?:{TEXTS})\s*\{{[^{{}}]*\}}\s*(?:=|:)|^\s*\\(?:{TEXTS})\s*\{{[^{{}}]*:\s*\}}")


def tidy(latex: str) -> str:
    """LaTeX without colours, bold letters, sizes, thin spaces and thousands, with `3e5` as a power of ten."""
    latex = _COLOUR.sub("", _BLANKS.sub(" ", _without_symbols(latex)))
    for pattern, replacement in _REWRITTEN:
        latex = re.sub(pattern, replacement, latex)
    latex = _LEADING.sub("", _LABEL.sub("", _BLANKS.sub(" ", _unwrap(latex)))).strip().rstrip(".,;").strip()
    for _ in range(_MOST_BRACES):
        if not latex.startswith("{") or until_closed(latex, 1) != latex[1:-1]:
            break
        latex = latex[1:-1].strip()
    return latex


def _without_symbols(text: str) -> str:
    """Unicode's powers, fractions, roots and signs as LaTeX, the digits of other scripts as ours."""
    text = _POWER.sub(lambda m: f"^{{{normalize('NFKC', m[0])}}}", _UNSEEN.sub("", text))
    text = _SIMPLE.sub(lambda m: r"\frac{{{}}}{{{}}}".format(*normalize("NFKC", m[0]).split("\u2044")), text)
    text = _OVERLINED.sub(lambda m: rf"\overline{{{m[0].replace(chr(0x305), '')}}}", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{_ROOTS[m[1]]}{{{m[2]}}}", text).replace("\u211d", _SYMBOLS["\u211d"])
    text = _OTHER_DIGIT.sub(lambda m: str(int(m[0])), normalize("NFKC", text))
    for symbol, command in _SYMBOLS.items():
        text = text.replace(symbol, command)
    return text


def _unwrap(latex: str) -> str:
    r"""LaTeX without the commands around bold letters and boxes, and without those of text around mathematics."""
    for wrapper in reversed(list(_WRAPPER.finditer(latex))):
        content = until_closed(latex, wrapper.end())
        if content is not None and (wrapper["style"] or re.search(r"^[\d(]|\\(?!circ)|[$=+]", content)):
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


def without_brackets(latex: str) -> str:
    """Tidy LaTeX without the brackets around a whole expression: `(x+1)` is `x+1`; `(1, 2)` and `(x+1)(x-1)` stay."""
    inside = latex[1:-1]
    if not (latex.startswith("(") and latex.endswith(")")) or re.search(r"[,;&]", inside):
        return latex
    depths = [*accumulate({"(": 1, ")": -1}.get(one, 0) for one in inside)]
    return inside if min(depths, default=-1) >= 0 else latex


def plain(latex: str) -> str:
    """The text of tidy LaTeX without spaces. The case of letters stays, except in words."""
    text = TEXT.sub(r"\1", latex).strip().removesuffix(".")
    text = re.sub(r"(?i)^(?:option|choice)\s+(?=\(?[a-z]\)?$)|^(?:an?|the)\s+(?=[a-z]{3})", "", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)", "\u2423", text)  # 1 1/4 is not 11/4
    text = re.sub(r"([\^_])\{(\w)\}", r"\1\2", re.sub(r"\s", "", text.replace(r"\%", "%")))
    if re.fullmatch(r"\(?[A-Za-z]\)?", text):
        return text.strip("()").upper()
    if not re.fullmatch(r"[^\W\d_]{2,}(?:[.,'-][^\W\d_]+)*[.!]?", text):
        return text
    word = text.lower().rstrip(".!")
    return r"\emptyset" if word in ("nosolution", "nosolutions", "emptyset", "theemptyset") else word
