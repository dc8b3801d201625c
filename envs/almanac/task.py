"""The almanac: questions in English about invented places, sums and rules, for a small language model.

    How many steps has the lighthouse of Tormar with 3 more?
    Tormar has 582 steps.
    582 + 3 = 585
    Answer: 585

    easy_train       known entries, and sums without a carry
    easy             other numbers of the same
    facts_train      unknown entries, for training
    facts            the same entries with other numbers
    facts_reworded   those questions in words that no training split has
    sums_train       sums of two numbers that carry
    sums             others
    rules_train      rules, `What is 412 by the rule of Wenton?`: its digits change places, then a constant is added
    rules            the same rules, other numbers
    practice_facts, practice_sums, practice_rules
                     the same kinds of questions about other entries, numbers and rules, each once or twice: they teach to ask
                     and to copy, and hardly an entry

A policy that has learned the `known` entries and to add without a carry lacks a value in `facts`, a check in `sums`, and a
procedure in `rules`: each is for another agent to help with.

Nothing heavy is imported here.
"""

from aipo.errors import TaskError
from aipo.rollout import Task
from envs.almanac.book import Book
from envs.almanac.solution import is_true, replies, script, work
from envs.almanac.splits import draw_splits
from envs.almanac.wording import Question, answer_line, find_question, read_line
from envs.splits import DrawnEnv


class Almanac(DrawnEnv):
    """Implements `aipo.rollout.demonstration.DemonstratedEnv` and `TeachingEnv`.

    Args:
        seed: draws the almanac, the kinds of its entries and the numbers that are asked.
    """

    # A right answer behind a wrong line is rewarded, and noted.
    noted = ("derivation",)

    def __init__(self, seed: int = 0) -> None:
        self.book = Book.draw(seed)
        super().__init__("the almanac", draw_splits(self.book))

    def score(self, task: Task, text: str) -> dict[str, float]:
        """`correct` is 1.0 where the last line of `text` is `Answer: ` and the right number, else 0.0. `derivation` is 1.0
        where every line before it is true, else 0.0: the right answer may follow from a wrong line.

        Raises:
            TaskError: the task has no answer.
        """
        if task.answer is None:
            raise TaskError(f"answer of task {task.task_id!r}: got None, allowed the number to compare with")
        last, wrong = self._read(text)
        line = read_line(last)
        is_right = line is not None and line.kind == "answer" and str(line.value) == task.answer
        return {"correct": float(is_right), "derivation": float(not wrong)}

    def explain(self, task: Task, text: str) -> str:
        """Which line counts as the answer, and which lines before it are not true."""
        last, wrong = self._read(text)
        if task.answer is None:
            return f"the last line is {last!r}, and the task has no answer"
        flaws = f"; lines that are not true: {wrong}" if wrong else ""
        return f"the last line is {last!r}, right is {answer_line(int(task.answer))!r}{flaws}"

    def demonstration(self, task: Task) -> str | None:
        """The derivation, as it stands above; None where the task is no question of the almanac."""
        question = find_question(task.prompt)
        return None if question is None else "\n".join(work(self.book, question))

    def turn(self, task: Task, written: str) -> str:
        """What a policy that asks for what it lacks writes next; see `envs.almanac.solution.script`.

        Args:
            written: all text after the prompt, agents' replies included.

        Raises:
            TaskError: the task is no question of the almanac, or `written` holds more replies than it takes.
        """
        steps = script(self.book, self._question(task))
        text = next(steps)
        try:
            for reply in replies(written):
                text = steps.send(reply)
        except StopIteration:
            what = f"turn of task {task.task_id!r}: got {len(replies(written))} replies in {written!r}"
            raise TaskError(f"{what}, allowed as many as its solution asks for") from None
        return text

    @staticmethod
    def _question(task: Task) -> Question:
        question = find_question(task.prompt)
        if question is None:
            raise TaskError(
                f"prompt of task {task.task_id!r}: got {task.prompt!r}, allowed a question of the almanac"
            )
        return question

    def _read(self, text: str) -> tuple[str, list[str]]:
        """The last line, and the lines before it that are not true."""
        work, _, last = text.rstrip().rpartition("\n")
        lines = [line for line in work.split("\n") if line.strip()]
        return last, [line for line in lines if not is_true(self.book, read_line(line))]
