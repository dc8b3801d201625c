r"""Which of several answers counts. It is a rule that must not surprise: **the last `\boxed{...}` that the policy wrote**.

What agents wrote is not looked at, nor is the question where the policy repeats it. An empty box is the form that the
prompt asks for, not an answer. A last box that is not closed is an answer that was not finished: then there is none.
Where answer lines are allowed, the last one (`Answer: 18`) counts in a text without any box.
"""

import re

from aipo.rollout import Task
from envs.math.writing import until_closed

_BOX = re.compile(r"\\boxed\s*\{")
_EMPTY = re.compile(r"\\boxed\s*\{\s*\}")
_LINE = re.compile(  # linear in the text, which may be long: no two runs of blanks stand side by side
    r"(?im)^[ \t>#*_]*(?:(?:so|thus|hence|therefore),?[ \t]+)?(?:the[ \t]+)?(?:(?:final|correct|best|right)[ \t]+)?answer"
    r"(?:[ \t]+is\b[ \t]?:?|[*_]{0,3}[ \t]?[:=])[*_\s]*(\S[^\n]*)"
)


def final_answer(text: str, question: str, *, line: bool = False) -> str | None:
    r"""What stands in the last `\boxed{...}` of `text`; None where there is no answer (see above).

    Args:
        line: the last answer line counts where there is no box.
    """
    if "\\boxed" in question or line:
        text = text.replace(question.strip(), "")
    for box in reversed(list(_BOX.finditer(text))):
        content = until_closed(text, box.end())
        if content is None or content.strip():
            return content
    lines = _LINE.findall(_EMPTY.sub("", text)) if line else []
    return lines[-1].strip("*_ \t\r").removesuffix(".") if lines else None


def explain_answer(task: Task, text: str, *, line: bool = False) -> str:
    r"""The answer that counts beside the canonical one, in words; see `final_answer`."""
    answer = final_answer(text, task.prompt, line=line)
    canonical = "" if task.answer is None else f"; the canonical answer is {task.answer!r}"
    if answer is None:
        missing = " and there is no answer line" if line else ""
        return f"no answer: the last \\boxed{{...}} is missing, or not closed{missing}{canonical}"
    place = "answer line" if final_answer(text, task.prompt) is None else "\\boxed{...}"
    return f"the last {place} says {answer!r}{canonical}"
