"""Chat templates that ask what day it is (`strftime_now`), told one day for a whole run.

transformers tells a template the time at which it is rendered, and takes no function in its place. So a template
gets a macro of that name in front, which fills in the parts of the day as text.
"""

import datetime
import json

_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", *"aAbBcdDeFfGhHIjmMpRSTuUVwWxXyYzZ")
_PERCENT = "\ufdd4"  # stands in for '%%': a character that no text may hold


def with_date(template: str, date: datetime.date) -> str:
    """The template, told that now is midnight of `date`; unchanged where it does not ask."""
    if "strftime_now" not in template:
        return template
    midnight = datetime.datetime.combine(date, datetime.time())
    parts = {"%%": _PERCENT}
    parts |= {f"%{directive}": midnight.strftime(f"%{directive}") for directive in _DIRECTIVES}
    parts[_PERCENT] = "%"
    filled = "".join(f"|replace({json.dumps(part)}, {json.dumps(text)})" for part, text in parts.items())
    # The empty expression keeps the block from taking away a line end at the template's beginning.
    return "{% macro strftime_now(format) %}{{ format" + filled + " }}{% endmacro %}{{ '' }}" + template
