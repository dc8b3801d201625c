"""What does a rollout with two tool calls cost the client: here, in TRL's tool loop and in `verifiers`?

    python tests/benchmarks/bench_neighbours.py --verifiers /where/verifiers/is/bin/python

All do the same job (`neighbour_job.py`): the same question, three stretches of 256 policy tokens with log-probs, two
look-ups in between that are a plain function here; the policy is one server with fixed answers in a process of its
own. Each contestant runs in a process of its own, one after another and several times; what is measured is CPU
time per rollout of that process and its children, from prompt to whole trajectory: ids, masks, log-probs. Starting
up and a first round are left out. What each does besides differs: ours keeps visits, checks and scores; TRL
tokenizes, generates in lock-step and writes nothing down; `verifiers` talks to itself through a local server.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from fixed_vllm import running
from measure import options, show, spread
from neighbour_job import Policy, template_of, tokenizer

HERE = Path(__file__).parent


def main() -> None:
    import trl

    # rounds in each process; processes of each contestant; seconds until the server answers
    given = options(__doc__, rollouts=256, rounds=3, repeats=3, latency=0.05, verifiers="")
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
    rows = [
        [said[name], spread(ms, 1), f"{median(ms) / median(taken['aipo']):.2f}"] for name, ms in taken.items()
    ]
    show(("", "CPU ms per rollout (least to most)", "× ours"), rows)


if __name__ == "__main__":
    main()
