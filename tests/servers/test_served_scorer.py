"""An agent on a real vLLM server: its log-probs over given ids are those of the weights that it serves."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError
from aipo.policies.scripted import CharTokenizer
from aipo.rollout.agent_logprobs import PLAIN, check_scorers
from aipo.rollout.reference_chat import reference
from aipo.util.event_loop import LOOP
from kit.servers import VLLMProcess

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
REPLIES = ("3@7=582", "582+20=602\n#602\n", "right", "wrong: 1+2=3")


@pytest.fixture(scope="module")
def served(vllm_python: str, cold: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMProcess]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "template.jinja").write_text(TEMPLATE)
    server = VLLMProcess(
        vllm_python, cold, folder / "log.txt", "--chat-template", str(folder / "template.jinja")
    )
    try:
        with server.running():
            yield server
    finally:
        LOOP.close()


def config(server: VLLMProcess, cold: Path) -> Experiment:
    options = {"model": str(cold), "base_url": f"{server.url}/v1", "temperature": 1, "top_p": 1}
    agent = {
        "graph": "graphs.verify:verify",
        "model": "langchain_openai:ChatOpenAI",
        "options": {**options, "extra_body": dict(PLAIN)},
        "secrets": {"api_key": "AGENTS_KEY"},
    }
    agents = json.dumps({"verify": agent})
    words = [f"policy.model={cold}", "policy.device=cpu", "method.coefficient=ratio", f"agents={agents}"]
    return load_experiment("aipo_distil", words)


def test_the_log_probs_are_those_of_a_forward_pass_and_another_tokenizer_is_refused(
    served: VLLMProcess, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTS_KEY", "none")
    made = config(served, cold)
    chats = made.scored_chats()
    start = made.local_policy(cold)
    start.tokenizer.inner.chat_template = TEMPLATE
    LOOP.run(check_scorers(chats, start.tokenizer))
    own, theirs = reference(lambda _: start), chats["verify"].scorer
    assert theirs is not None
    for reply in REPLIES:
        messages = [{"role": "system", "content": "agents\n"}, {"role": "human", "content": "3@7+20=?\n"}]
        ids = start.tokenizer.encode(reply)
        got, expected = (LOOP.run(scorer.score(messages, ids)) for scorer in (theirs, own))
        np.testing.assert_allclose(got, expected, atol=1e-3)
    with pytest.raises(ConfigError, match="another tokenizer than the policy's"):
        LOOP.run(check_scorers(chats, CharTokenizer(specials=())))
