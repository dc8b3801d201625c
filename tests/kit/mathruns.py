"""A small run on real questions: what is configured, and what must hold of it whatever samples."""

import io
import json
import re
from pathlib import Path

import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from aipo.config.load import Config, load_config
from aipo.evaluate.run import evaluate_folder
from aipo.policies.tokenizer import HFTokenizer
from aipo.run import RunFolder
from aipo.trace import Mode, Role, Trace
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from graphs.solo import policy_prompt
from kit.chatml import AGENTS, chat_model
from kit.datakit import real_splits

REPLY = "It may be \\boxed{5}."
"""What every agent says; it is the answer to every question that is trained on."""


def configured(folder: Path, *, tags: bool, **policy: object) -> Config:
    """Questions of GSM8K whose answer is 5 to train on, AIME and some of MATH to be examined on."""
    files = real_splits()
    rows = [json.loads(line) for line in Path(files["gsm8k"]).read_text(encoding="utf-8").splitlines()]
    fives = [row for row in rows if row["answer"].endswith("\n#### 5")]
    mathematics = Path(files["math500"]).read_text(encoding="utf-8").splitlines()[:12]
    (folder / "fives.jsonl").write_text("\n".join(map(json.dumps, fives)), encoding="utf-8")
    (folder / "some.jsonl").write_text("\n".join(mathematics), encoding="utf-8")
    agent = {
        "model": "langchain_core.language_models:FakeListChatModel",
        "options": {"responses": [REPLY]},
        "max_tokens": 32,
    }
    settings = {
        "run": {"out": str(folder / "run"), "threads": 1},
        "env": {
            "name": "envs.math:Math",
            "options": {
                "splits": {
                    "train": str(folder / "fives.jsonl"),
                    "math": {"file": str(folder / "some.jsonl")},
                    "aime24": files["aime24"],
                    "aime25": {"file": files["aime25"], "question": "problem", "answer": "answer"},
                }
            },
            "mixture": {"train": 1.0},
        },
        "policy": {"model": str(chat_model(folder / "model", tags=tags)), **policy},
        "agents": {name: {"graph": f"graphs.{name}:{name}", **agent} for name in AGENTS},
        "rollout": {"max_tokens": 48, "concurrency": 64},
        # Tags that are several tokens cannot be masked.
        "method": {"suppress_share": 0.5 if tags else 0.0, "distil_suppress": tags},
        "train": {"steps": 2, "tasks_per_step": 4, "group_size": 8, "learning_rate": 1e-3},
        "evaluate": {
            "splits": ["math", "aime24", "aime25"],
            "settings": ["solo", "suppressed", "assisted"] if tags else ["solo", "assisted"],
            "samples": 1,
            "ks": [1],
        },
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_config(str(folder / "my.yaml"))


def check_run(config: Config, *, tags: bool) -> None:
    """Trains it, looks at what is left, and examines what was trained."""
    quiet = Console(file=io.StringIO())
    train_run(config, resume=False, evaluate_after=False, console=quiet)
    folder = RunFolder(config.run.out)
    check_traces(list(TraceStore(folder.traces).read()), config, tags=tags)
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    first, trained = (
        AutoModelForCausalLM.from_pretrained(path) for path in (config.policy.model, folder.model)
    )
    assert not torch.equal(first.lm_head.weight, trained.lm_head.weight)

    evaluate_folder(folder.path, None, (), name="mine", console=quiet)
    found = json.loads(folder.evaluation("mine").read_text())
    settings = [*config.evaluate.settings]
    assert [(split, [*results]) for split, results in found.items()] == [
        (split, settings) for split in config.evaluate.splits
    ]
    for split, count in {"math": 12, "aime24": 30, "aime25": 30}.items():
        for result in found[split].values():
            counts = result["counts"]
            assert (counts["tasks"], counts["verdicts"], counts["failed"]) == (count, count, 0)
            assert result["pass_at"]["1"] == counts["correct"] / count


def check_traces(traces: list[Trace], config: Config, *, tags: bool) -> None:
    """Of 2 x 4 x 8 rollouts: what was asked, who said what, what it earned, and with which log-probs."""
    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(config.policy.model))
    assert len(traces) == 64 and not [trace.error for trace in traces if trace.failed]
    assert sum(trace.mode is Mode.ASSISTED for trace in traces) == 32
    for trace in traces:
        section = "solo" if trace.mode is Mode.SOLO else "assisted"
        asked = policy_prompt("policy.md").render(section, question=trace.task["prompt"], agents=AGENTS)
        prompt, *rest = trace.segments
        assert tokenizer.decode(prompt.token_ids) == (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        )
        enders = {s.role for s in rest if tokenizer.eos_id in s.token_ids}
        assert enders <= {Role.POLICY}
        told = [tokenizer.decode(s.token_ids) for s in rest if s.role is Role.AGENT]
        # Near the end of its room a rollout is told the beginning of a reply.
        said = [re.fullmatch(r"<feedback:(\w+)>(.*)</feedback>", text, re.DOTALL) for text in told]
        assert all(match and match[1] in AGENTS and REPLY.startswith(match[2]) for match in said)
        own = "".join(tokenizer.decode(s.token_ids) for s in rest if s.role is Role.POLICY)
        last, closed, _ = own.rpartition("\\boxed{")[2].partition("}")
        right = bool(closed) and "\\boxed{" in own and last.strip(" .") == "5"
        assert trace.reward == trace.reward_parts["correct"] == float(right), own
    consulting = [trace for trace in traces if any(s.role is Role.AGENT for s in trace.segments)]
    assert {trace.mode for trace in consulting} == {Mode.ASSISTED}
    # Each of them was told the answer in a box; only those that put it there themselves have earned anything.
    assert {trace.reward for trace in consulting} == {0.0, 1.0}
    feedback = [s for trace in consulting for s in trace.segments if s.role is Role.AGENT]
    opening = tokenizer.encode("<feedback:knowledge>", control=True)
    assert (len(opening) == 1) == tags
    assert any(s.token_ids.tolist()[: len(opening)] == opening for s in feedback)
    check_logprobs([t for t in traces if t.step == 0 and not t.forbidden_ids], config)


def check_logprobs(traces: list[Trace], config: Config) -> None:
    """What was sampled before the first update has the log-probs that transformers computes."""
    model = AutoModelForCausalLM.from_pretrained(config.policy.model).eval()
    for trace in traces:
        ids_1_T = torch.tensor(trace.token_ids.tolist())[None]
        with torch.no_grad():
            logprobs_T_V = model(ids_1_T).logits[0].log_softmax(-1)
        start = 0
        for piece in trace.segments:
            if piece.role is Role.POLICY:
                places = torch.arange(start, start + len(piece))
                computed = logprobs_T_V[places - 1, ids_1_T[0, places]]
                torch.testing.assert_close(torch.tensor(piece.logprobs), computed, atol=1e-3, rtol=0)
            start += len(piece)
