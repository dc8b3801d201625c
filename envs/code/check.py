"""Runs inside a sandbox of its own: a suite of asserts, whose function is the solution in another sandbox.

Standard input is a socket to `serve.py`. The last line of the output is the verdict. An exit status other than 0 says
that the suite itself failed. Argument: the function's name.
"""

import json
import os
import random
import sys
from typing import Any

from wire import decode, encode  # pyright: ignore[reportMissingImports]  # the file beside this one in the sandbox

_MOST = 2**20
"""Bytes of a reply."""


class SuiteError(Exception):
    """The suite calls the function with what is no plain data."""


class ReplyError(Exception):
    """The solution raised, ended, or returned what is no plain data."""


def main() -> None:
    """Runs the suite and prints the verdict."""
    name = sys.argv[1]
    channel = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(0), "wb")

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        try:
            line = json.dumps(encode([list(arguments), keywords])).encode() + b"\n"
        except TypeError as error:
            raise SuiteError(f"arguments of {name}: {error}") from error
        try:
            channel[1].write(line)
            channel[1].flush()
            reply = channel[0].readline(_MOST)
            fields = json.loads(reply)
            if "error" in fields:
                raise ReplyError(str(fields["error"]))
            return decode(fields["value"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReplyError("no reply of the solution") from error

    random.seed(0)  # the same verdict on repeat
    space: dict[str, Any] = {"__name__": "tests"}
    for file in ("prelude.py", "tests.py"):
        with open(file, encoding="utf-8") as source:
            code = compile(source.read(), file, "exec", dont_inherit=True)
        if file == "tests.py":
            space.update({name: candidate, "candidate": candidate})
        try:
            exec(code, space)
        except (NameError, ImportError, SyntaxError, MemoryError, SuiteError):
            raise  # the suite's own fault
        except Exception as error:
            print(
                json.dumps(
                    {"passed": False, "why": f"{type(error).__name__}: {error}".removesuffix(": ")[:500]}
                )
            )
            return
    print(json.dumps({"passed": True}))


main()
