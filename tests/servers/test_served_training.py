"""The whole method through two real servers: what the policy learned to do alone is what the demo's does."""

import io
import json

from rich.console import Console
from served import Agents, Configure

from aipo.run import RunFolder
from aipo.train import train_run

DEMO = (0.84, 0.94)
"""pass@1 alone on unknown facts: the demo's 95 % interval, over facts (README: 0.89, worst seed 0.88)."""


def test_what_was_learned_through_servers_is_what_the_demo_learns(
    configure: Configure, agents: Agents
) -> None:
    config = configure(agents=agents)
    train_run(config, resume=False, evaluate_after=True, console=Console(file=io.StringIO()))
    folder = RunFolder(config.run.out)
    solo = json.loads(folder.evaluation("after").read_text())["heldout"]["solo"]
    print(solo)
    low, high = solo["interval"]["1"] if "interval" in solo else (0, 1)
    assert low <= DEMO[1] and high >= DEMO[0]
