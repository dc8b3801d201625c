"""A real language model with tied embeddings, trained through a CPU server with its tags as tokens: every policy token has
the trainer's log-prob, in every step."""

import io
import sys
from pathlib import Path

from rich.console import Console

from aipo.config.build import load_experiment
from aipo.run import RunFolder
from aipo.trace import Mode
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from kit.servers import VLLMProcess, free_port

STEPS = 10
CODE = '''
from aipo.rollout import Task

class Even:
    """Rewards an even number of characters, which any model writes at times."""
    def __init__(self, splits):
        """`splits` are those of the preset."""
    def splits(self):
        return ["train"]
    def tasks(self, split):
        return [Task(task_id="1", prompt="Say hello to a friend.", answer=None, split=split)]
    def score(self, task, text):
        return {"correct": float(len(text) % 2 == 0)}
'''


def test_ten_steps_through_a_server(vllm_python: str, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "even.py").write_text(CODE)
    settings = [
        f"run={{out: {tmp_path / 'run'}, threads: 1}}",
        f"policy={{model: {smollm2}, add_tags: true, device: cpu, engine: vllm}}",
        f"env={{name: {tmp_path / 'even.py'}:Even, options: {{splits: null}}, mixture: {{train: 1}}}}",
        "agents.verify=null",
        "agents.knowledge=null",
        "agents.reasoning.model=langchain_core.language_models:FakeListChatModel",
        "agents.reasoning.options={responses: [Go on.]}",
        "rollout={max_tokens: 12, concurrency: 4}",
        "method={suppress_share: 0.25, assist_share_end: null}",
        f"train={{steps: {STEPS}, tasks_per_step: 1, group_size: 4, gradient_accumulation: 1, save_every: null}}",
        "train.learning_rate=1.0e-5",
        "evaluate.splits=[train]",
    ]
    port = free_port()
    words = ["--python", vllm_python, "--port", str(port), "--context", "1024", "--cache", "1"]
    command = [sys.executable, "-m", "aipo.cli", "serve", "--config", "small", *words, *settings]
    server = VLLMProcess(vllm_python, smollm2, tmp_path / "log.txt", port=port, command=command)
    with server.running():
        served = load_experiment("small", [*settings, f"policy.vllm.servers=[{server.url}]"])
        train_run(served, resume=False, evaluate_after=False, console=Console(file=io.StringIO()))
    run = RunFolder(tmp_path / "run")
    gaps = [line["mismatch/max"] for line in run.read_metrics() if "mismatch/max" in line]
    assert len(gaps) >= STEPS // 2 and max(gaps) < 1e-3
    traces = list(TraceStore(run.traces).read())
    assert len(traces) == 4 * STEPS and not [trace.error for trace in traces if trace.failed]
    assert {trace.step for trace in traces} == set(range(STEPS))
    assert any(trace.mode is Mode.SOLO and trace.forbidden_ids for trace in traces)
    versions = {part.policy_version for trace in traces for part in trace.segments if part.role == "policy"}
    assert len(versions) == STEPS  # each step was sampled by the weights of the step before
