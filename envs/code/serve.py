"""Runs inside the sandbox of a solution: calls its function for every line that comes, and answers each with a line.

Nothing here is secret, and nothing that the solution changes of it helps: the expected values are elsewhere.
Arguments: the function's name, and the descriptor for replies.
"""

import json
import os
import sys
from typing import Any

from wire import decode, encode  # pyright: ignore[reportMissingImports]  # the file beside this one in the sandbox


def main() -> None:
    """Serves until the calls end."""
    name, descriptor = sys.argv[1], int(sys.argv[2])
    calls, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(descriptor), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # what the solution prints is no reply
    space: dict[str, Any] = {"__name__": "solution"}
    for file in ("prelude.py", "solution.py"):
        with open(file, encoding="utf-8") as source:
            exec(compile(source.read(), file, "exec", dont_inherit=True), space)
    function = getattr(space["Solution"](), name) if "Solution" in space else space[name]
    for line in calls:
        arguments, keywords = decode(json.loads(line))
        try:
            reply = {"value": encode(function(*arguments, **keywords))}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


main()
