"""The job in TRL's own tool loop: `GRPOTrainer._generate` with a tool, in vLLM's server mode.

TRL refuses to construct its vLLM client where vLLM is not installed, and its constructor opens a NCCL group,
which needs a GPU. So the two objects are made here without their constructors and hold the same attributes; all
that runs when a batch is generated is TRL's own code: chat template, requests, answers, parsing, tools, masks.
"""

import sys
import tempfile
from pathlib import Path

import requests
from datasets import Dataset
from neighbour_job import FACT, MODEL, QUESTION, TOKENS, TURNS, cpu, tell
from neighbour_job import given as arguments
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl import __version__ as version
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

sys.path.insert(0, str(Path(__file__).parents[1]))
from kit.tiny import qwen2

GROUP = 8


def lookup(key: str) -> str:
    """
    Look a word up in the table.

    Args:
        key: The word.
    """
    return FACT


def trainer(folder: str, url: str, batch: int, out: str) -> GRPOTrainer:
    words = AutoTokenizer.from_pretrained(folder)
    made = GRPOTrainer(
        qwen2(len(words), num_hidden_layers=1, max_position_embeddings=1 << 15),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=batch,
            num_generations=GROUP,
            max_completion_length=4 * TURNS * TOKENS,
            use_cpu=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": QUESTION}]}] * batch),
        processing_class=words,
        tools=[lookup],
    )
    client = VLLMClient.__new__(VLLMClient)
    client.session, client.base_url, client.model = requests.Session(), url, MODEL
    client.session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
    server = VLLMGeneration.__new__(VLLMGeneration)
    settings = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    vars(server).update(
        mode="server",
        accelerator=made.accelerator,
        vllm_client=client,
        max_completion_length=made.max_completion_length,
        logprobs=0,
        structured_outputs_regex=None,
        generation_kwargs={},
        **settings,
    )
    made.use_vllm, made.vllm_mode, made.vllm_generation = True, "server", server
    # As `_generate_and_score_completions` does for every batch.
    made._sync_tool_dicts = [{"lookup": lookup} for _ in range(batch)]
    made._async_tool_dicts = [{} for _ in range(batch)]
    made._last_loaded_step = made.state.global_step
    made.model.train()
    return made


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory() as out:
        made = trainer(given.folder, given.url, given.rollouts, out)
        prompts = [[{"role": "user", "content": QUESTION}] for _ in range(given.rollouts)]
        taken = []
        for _ in range(given.rounds + 1):
            began = cpu()
            _, completions, masks, _, logprobs, *_ = made._generate(prompts)
            taken.append(1e3 * (cpu() - began) / given.rollouts)
            for ids, mask, logprob in zip(completions, masks, logprobs, strict=True):
                assert len(ids) == len(mask) == len(logprob) and sum(mask) == TURNS * TOKENS
    tell(taken[1:], f"TRL {version}: GRPOTrainer._generate with a tool")


if __name__ == "__main__":
    main()
