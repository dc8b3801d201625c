"""A small run on real questions: a tiny Qwen2 that chats, what is configured, and what must hold whatever samples.

The model has ChatML, a byte-level BPE, and enough training to consult and to put a digit in a box. It has read nothing
but the prompts that ship and sums that are made up here, and its answers are guesses. It is there to show that real
questions travel whole through every room, not that anybody solves them.
"""

import io
import json
import random
import re
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from tokenizers import AddedToken, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from aipo.config.build import Experiment, load_experiment
from aipo.evaluate.run import evaluate_folder
from aipo.policies.tokenizer import HFTokenizer
from aipo.run import RunFolder
from aipo.trace import Mode, Role, Trace
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from graphs.solo import PROMPTS, policy_prompt
from kit.parts import real_splits
from kit.tiny import qwen2

AGENTS = ("verify", "knowledge", "reasoning")
TAGS = (
    *(f"<{kind}:{agent}>" for kind in ("consult", "feedback") for agent in AGENTS),
    *("</consult>", "</feedback>", "<notice>", "</notice>"),
)
# Qwen2.5's, without tools.
TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GUESSES = "23456"
_STEPS, _BATCH = 100, 8
REPLY = "It may be \\boxed{5}."
"""What every agent says; it is the answer to every question that is trained on."""


def chat_tokenizer(*, tags: bool) -> Qwen2Tokenizer:
    """Qwen's kind with about 700 ids; the tags of the grammar are tokens of their own, or they are not."""
    texts = [(PROMPTS / "policy.md").read_text(encoding="utf-8")]
    texts += [_question(random.Random(n)) + _request("7") + _ending("7") for n in range(50)]
    backend = Qwen2Tokenizer().backend_tokenizer  # for how it cuts text into words
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    learned = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )
    if tags:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAGS])
    return tokenizer


def chat_model(folder: Path, *, tags: bool) -> Path:
    """Trained and saved to `folder`: it consults where agents are offered, and ends on a digit in a box."""
    tokenizer = chat_tokenizer(tags=tags)
    words = HFTokenizer(tokenizer)
    size = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 4096}
    ends = {"bos_token_id": None, "eos_token_id": words.eos_id, "pad_token_id": words.pad_id}
    # Two heads of 32 each: vLLM has no smaller ones on CPUs.
    model = qwen2(len(words), initializer_range=0.02, **size, **ends)
    _fit(model, words)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _question(rng: random.Random) -> str:
    names, things = ("Ann", "Bob", "Cid", "Dee"), ("apples", "coins", "$x$", "points")
    a, b, c = (rng.randrange(100) for _ in range(3))
    return (
        f"{rng.choice(names)} has {a} {rng.choice(things)} and finds {b}. How many are there if {c} get lost?"
    )


def _request(guess: str) -> str:
    return f"<consult:knowledge>Is it {guess}?</consult>"


def _ending(guess: str) -> str:
    return f"So it is \\boxed{{{guess}}}.<|im_end|>"


def _demonstration(words: HFTokenizer, rng: random.Random) -> tuple[list[int], list[bool]]:
    """A conversation, and which of its tokens are the policy's own."""
    assisted, guess = rng.random() < 0.6, rng.choice(GUESSES)
    prompt = policy_prompt("policy.md").render(
        "assisted" if assisted else "solo", question=_question(rng), agents=AGENTS
    )
    pieces = [(words.encode_prompt(prompt), False)]
    if assisted:
        pieces += [
            (words.encode(_request(guess), control=True), True),
            (words.encode("<feedback:knowledge>", control=True), False),
            (words.encode(f"It may be {rng.choice(GUESSES)}."), False),
            (words.encode("</feedback>", control=True), False),
        ]
    pieces.append((words.encode(_ending(guess), control=True), True))
    return [i for ids, _ in pieces for i in ids], [own for ids, own in pieces for _ in ids]


def _fit(model: Qwen2ForCausalLM, words: HFTokenizer) -> None:
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for step in range(_STEPS):
        rows = [_demonstration(words, rng) for _ in range(_BATCH)]
        # The padding stands behind everything that is learned, where attention does not look.
        ids_B_T = pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True)
        own_B_T = pad_sequence([torch.tensor(own) for _, own in rows], batch_first=True)
        logits = model(input_ids=ids_B_T[:, :-1], use_cache=False).logits[own_B_T[:, 1:]]
        loss = F.cross_entropy(logits, ids_B_T[:, 1:][own_B_T[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / _STEPS)
        optimizer.step()
        optimizer.zero_grad()


# -- the run ---------------------------------------------------------------------------------------------


def configured(folder: Path, *, tags: bool, **policy: object) -> Experiment:
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
    return load_experiment(str(folder / "my.yaml"))


def check_run(config: Experiment, *, tags: bool) -> None:
    """Trains it, looks at what is left, and examines what was trained."""
    quiet = Console(file=io.StringIO())
    train_run(config, resume=False, evaluate_after=False, console=quiet)
    folder = RunFolder(config.out)
    check_traces(list(TraceStore(folder.traces).read()), config, tags=tags)
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    first, trained = (
        AutoModelForCausalLM.from_pretrained(path) for path in (config.policy.model, folder.model)
    )
    assert not torch.equal(first.lm_head.weight, trained.lm_head.weight)

    evaluate_folder(folder.path, None, (), name="mine", console=quiet)
    found = json.loads(folder.evaluation("mine").read_text())
    settings = [*config.evaluation.settings]
    assert [(split, [*results]) for split, results in found.items()] == [
        (split, settings) for split in config.evaluation.splits
    ]
    for split, count in {"math": 12, "aime24": 30, "aime25": 30}.items():
        for result in found[split].values():
            counts = result["counts"]
            assert (counts["tasks"], counts["verdicts"], counts["failed"]) == (count, count, 0)
            assert result["pass_at"]["1"] == counts["correct"] / count


def check_traces(traces: list[Trace], config: Experiment, *, tags: bool) -> None:
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
        texts = (tokenizer.decode(s.token_ids) for s in rest if s.role is Role.POLICY)
        # What an agent is asked is no part of the answer; a request that is never closed goes to the end.
        own = "".join(re.sub(r"<consult:\w+>.*?(</consult>|\Z)", "", text, flags=re.DOTALL) for text in texts)
        own = own.replace("</consult>", "")
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


def check_logprobs(traces: list[Trace], config: Experiment) -> None:
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
