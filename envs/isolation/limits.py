"""What a program may use, and how it ended."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from aipo.util.section import Count, Positive, Section


class Limits(Section):
    """What one program may use; the kernel enforces all but the deadline and the output."""

    seconds: Count = Field(10, description="processor time of each process")
    deadline: Positive = Field(60.0, description="seconds on the clock, also for a program that only sleeps")
    memory: Count = Field(2**30, description="bytes of address space of each process")
    processes: Count = Field(8, description="processes and threads at once")
    output: Count = Field(2**20, description="bytes on standard output, and on standard error")
    disk: Count = Field(2**26, description="bytes in its folder, and in each file")


DEFAULT_LIMITS = Limits.model_validate({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended.

    Attributes:
        code: its exit status; 128 + N if signal N ended it; None if we did.
        stdout: what it wrote, up to the limit.
        stderr: the same of standard error.
        ended: the limit for which we ended it.
    """

    code: int | None
    stdout: bytes
    stderr: bytes
    ended: Literal["deadline", "output"] | None = None

    @property
    def says(self) -> str:
        """How it ended, in words."""
        if self.ended is not None:
            return f"ended at its limit `{self.ended}`"
        if self.code == 137:  # nobody but the kernel and the program itself can send it
            return "killed (SIGKILL), as by the limit `seconds`"
        last = self.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        return f"exit status {self.code}{': ' if last else ''}{last}"
