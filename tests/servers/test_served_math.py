"""The same with the policy on a vLLM server."""

from pathlib import Path

import pytest

from kit.mathruns import check_run, configured
from kit.servers import VLLMProcess


@pytest.mark.parametrize("tags", [True, False], ids=["tags are tokens", "tags are text"])
def test_real_questions_through_a_server(vllm_python: str, tmp_path: Path, tags: bool) -> None:
    server = VLLMProcess(vllm_python, tmp_path / "model", tmp_path / "vllm.txt")
    config = configured(tmp_path, tags=tags, engine="vllm", vllm={"servers": [server.url]})
    with server.running():
        check_run(config, tags=tags)
