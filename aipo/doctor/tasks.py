"""Are the tasks of the first step ones that can be learned from? Its questions, and its solutions where there are any."""

from collections.abc import Iterator

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.evaluate.tasks import score_text
from aipo.policies.tokenizer import HFTokenizer
from aipo.util.text import cut

_SCORED = 16
"""Solutions that are scored: a sandbox takes up to seconds for one."""


def check_tasks(experiment: Experiment, tokenizer: HFTokenizer) -> Iterator[Check]:
    """One line for each thing that is not as it should be."""
    tasks = experiment.tasks(0)
    spelling = {task.task_id: tokens for task in tasks if (tokens := tokenizer.control_in(task.prompt))}
    if spelling:
        name, tokens = next(iter(spelling.items()))
        does = "fail" if experiment.rollout.control_tokens == "refuse" else "read them as plain text"
        found = (
            f"control tokens in {len(spelling)} of the first step's {len(tasks)} questions ({name}: {', '.join(tokens)}); "
            f"their rollouts {does}"
        )
        yield Check(
            "warn", "questions", found, "questions without a chat's markup, or rollout.control_tokens"
        )
    show = getattr(experiment.env, "demonstration", lambda _: None)
    solutions = [(task, text) for task in tasks[:_SCORED] if (text := show(task)) is not None]
    verdicts = [(task, score_text(experiment, task, text)) for task, text in solutions]
    if wrong := [(task, verdict) for task, verdict in verdicts if not (verdict["reward"] or 0) > 0]:
        task, verdict = wrong[0]
        why = cut(str(verdict["why"] or verdict["parts"]), 200)
        found = f"no reward for {len(wrong)} of {len(solutions)} of the environment's own solutions, {task.task_id}: {why}"
        advice = f"the environment's `score`, or the answers of its items ({experiment.env_name})"
        yield Check("warn", "solutions", found, advice)
