"""What does a rollout with two tool calls cost the client: here, in TRL's tool loop and in `verifiers`?

    python tests/benchmarks/bench_neighbours.py --verifiers /where/verifiers/is/bin/python

All do the same job (`neighbour_job.py`): the same question, three stretches of 256 policy tokens with log-probs, two
look-ups in between that are a plain function here; the policy is one server with fixed answers in a process of its
own. Each contestant runs in a process of its own, one after another and several times; what is measured is CPU
time per rollout of that process and its children, from prompt to whole trajectory: ids, masks, log-probs. Starting
up and a first round are left out. What each does besides differs: ours keeps visits, checks and scores; TRL
tokenizes, generates in lock-step and writes nothing down; `verifiers` talks to itself through a local server.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from fixed_vllm import running
from neighbour_job import Policy, template_of, tokenizer
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent


def main() -> None:
    import trl

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="in each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each contestant")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds until the server answers")
    parser.add_argument("--verifiers", help="Python of an environment that has verifiers")
    given = parser.parse_args()
    contestants = {"aipo": sys.executable, "trl": sys.executable}
    if given.verifiers:
        contestants["verifiers"] = given.verifiers
    words = tokenizer(template_of(Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"))
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, running(Policy(words), latency=given.latency) as url:
        words.save_pretrained(folder)
        for _ in range(given.repeats):
            for name, python in contestants.items():
                command = [python, str(HERE / f"neighbour_{name}.py"), url, folder]
                command += [str(given.rollouts), str(given.rounds)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                told = json.loads(done.stdout.splitlines()[-1])
                taken[name] += told["ms"]
                said[name] = told["what"]
    table = Table("", "CPU ms per rollout (least to most)", "× ours")
    for name, ms in taken.items():
        spread = f"{median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})"
        table.add_row(said[name], spread, f"{median(ms) / median(taken['aipo']):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
