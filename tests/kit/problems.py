"""Problems of our own in the suites' schemas, their right solutions, and solutions that cheat."""

import base64
import json
import pickle
import zlib

HUMANEVAL = {
    "task_id": "Mine/0",
    "prompt": 'from typing import List\n\ndef helper(x):\n    return x + 1\n\ndef double(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(helper(4)) == 10\n",
}
MBPP = {
    "task_id": 7,
    "prompt": "Write a function that sorts two numbers.",
    "code": "def pair(a, b):\n    return (min(a, b), max(a, b))",
    "test_imports": ["import math"],
    "test_list": ["assert pair(2, 1) == (1, 2)", "assert set(pair(3, 3)) == {3}"],
}


def packed(tests: object) -> str:
    """As LiveCodeBench has its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


STDIN = {
    "question_id": "a1",
    "question_title": "Sum",
    "question_content": "Add the numbers of each line.",
    "platform": "mine",
    "difficulty": "easy",
    "contest_date": "2024-05-01T00:00:00",
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "4 5\n7 8\n", "output": "9\n15\n", "testtype": "stdin"}]),
}
FUNCTION = {
    **STDIN,
    "question_id": "a2",
    "question_content": "Add two lists.",
    "contest_date": "2024-09-30T00:00:00",
    "starter_code": "class Solution:\n    def add(self, a: List[int], b: List[int]) -> List[int]:\n        ",
    "metadata": json.dumps({"func_name": "add"}),
    "public_test_cases": json.dumps(
        [{"input": "[1, 2]\n[3, 4]", "output": "[4, 6]", "testtype": "functional"}]
    ),
    "private_test_cases": json.dumps([{"input": "[]\n[]", "output": "[]", "testtype": "functional"}]),
}

RIGHT = {
    "humaneval": ["def double(x):\n    return x + x", "double = lambda x: helper(x) - 1 + x"],
    "mbpp": [
        MBPP["code"],
        "from __future__ import annotations\ndef pair(*both):\n    return tuple(sorted(both))",
    ],
    "stdin": [
        "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
        "for line in sys.stdin:\n    print(float(sum(map(int, line.split()))), end=' \\n')",
        "def main():\n    try:\n        while True: print(sum(map(int, input().split())))\n    except EOFError:\n        exit(0)\nif __name__ == '__main__':\n    main()",
    ],
    "function": [
        "class Solution:\n    def add(self, a: List[int], b: List[int]) -> List[int]:\n        print('noise')\n        return [x + y for x, y in zip(a, b)]",
        "def add(a, b):\n    return tuple(map(sum, zip(a, b)))",
    ],
}
"""By suite."""

_DEF = {
    "humaneval": "def double(x):",
    "mbpp": "def pair(a, b):",
    "stdin": "def body():",
    "function": "def add(a, b):",
}
_CALL = "\nif __name__ == '__main__': body()"

_BODIES = {
    "sys.exit": "import sys; sys.exit(0)",
    "os._exit": "import os; os._exit(0)",
    "kill all": "import os, signal; os.kill(-1, 9); os.kill(os.getpid(), 9)",
    "raise SystemExit": "raise SystemExit(0)",
    "fail as a test": "raise AssertionError",
    "fail as the suite": "raise NameError('suite')",
    "deep recursion": "return body() if 'body' in globals() else (double if 'double' in globals() else (pair if 'pair' in globals() else add))(*[1] * 9)",
    "equal to all": "return type('Liar', (), {'__eq__': lambda *_: True, '__hash__': lambda *_: 1})()",
    "a number equal to all": "return type('Liar', (int,), {'__eq__': lambda *_: True, '__hash__': int.__hash__})(9)",
    "a tuple equal to all": "return type('Liar', (tuple,), {'__eq__': lambda *_: True, '__hash__': tuple.__hash__})((8, 9))",
    "a verdict for a reply": "import os; [os.write(n, b'{\"passed\": true}\\n') for n in range(9) if n in range(3) or os.path.exists(f'/proc/self/fd/{n}')]",
    "an error for a reply": 'import os; os.write(0, b\'{"error": "x", "value": true}\\n\')',
    "long reply": "return 'x' * 2**22",
    "deep reply": "import functools; return functools.reduce(lambda x, _: [x], range(900), 0)",
    "not a number": "return float('nan')",
    "no data": "return object()",
    "endless": "while True: pass",
    "look for the tests": "import glob, sys; found = ''.join(open(f).read() for f in glob.glob('/tmp/*') + glob.glob('/tmp/*/*')); return 6 if 'candidate(3)' in found else None",
    "patch json": "import json; json.dumps = lambda *_, **__: '{\"passed\": true}'; return None",
    "close the reply": "import os; os.closerange(0, 64)",
}
_MODULES = {
    "exit at import": "import os; os._exit(0)",
    "print a verdict at import": "print('{\"passed\": true}'); raise SystemExit",
    "patch builtins": "import builtins\nbuiltins.all = builtins.any = lambda *_: True\nbuiltins.set = lambda *_: {3}\nbuiltins.AssertionError = Exception",
    "replace the server": "import sys\nopen('serve.py', 'w').write('print(1)'); open('wire.py', 'w').write('')\nsys.modules['wire'].encode = lambda _: {'set': [[]]}",
    "replace the tests": "open('tests.py', 'w').write(''); open('check.py', 'w').write('print(\\'{\"passed\": true}\\')')",
    "syntax error": "def (",
    "no text": "\ud800",
    "patch the interpreter at exit": "import atexit, os; atexit.register(os._exit, 0)",
}


def cheats(suite: str) -> dict[str, str]:
    """Wrong solutions that try to pass for right ones, by what they try."""
    bodies = {name: f"{_DEF[suite]}\n    {body}" for name, body in _BODIES.items()}
    if suite == "stdin":
        bodies = {name: program + _CALL for name, program in bodies.items()}
    wrong = f"{_DEF[suite]}\n    return None"
    return {**bodies, **{name: f"{module}\n{wrong}" for name, module in _MODULES.items()}}
