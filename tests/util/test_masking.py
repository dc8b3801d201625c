"""No secret is recorded or printed, whoever repeats it."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from aipo.util import masking
from aipo.util.masking import keep_secret, mask
from aipo.util.section import open_secrets
from aipo.util.text import clean, error_text

KEY = 'p/ss"word-42'


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(masking, "_known", set())
    yield


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"key {KEY} is not known", "key *** is not known"),
        ("GET /models?k=p%2Fss%22word-42&n=1", "GET /models?k=***&n=1"),
        (r'{"detail": "p/ss\"word-42"}', '{"detail": "***"}'),
        ("nothing", "nothing"),
    ],
)
def test_what_a_configuration_names_is_masked_in_every_writing(text: str, masked: str) -> None:
    keep_secret(KEY, None)
    assert (clean(text), mask(text), error_text(ValueError(text))) == (
        masked,
        masked,
        f"ValueError: {masked}",
    )


@pytest.mark.parametrize("word", ["EMPTY", "none", "", "x", "secret", "a-b"])
def test_a_key_that_is_none_masks_no_word(word: str) -> None:
    keep_secret(word)
    assert clean("EMPTY none x secret a-b") == "EMPTY none x secret a-b"


def test_the_longer_of_two_secrets_is_masked_as_a_whole() -> None:
    keep_secret("secret-1", "secret-1-more")
    assert clean("secret-1-more secret-1") == "*** ***"


@pytest.mark.parametrize("name", ["GATEWAY_KEY", "HF_TOKEN", "some_secret", "DB_PASSWORD"])
def test_errors_hold_nothing_of_variables_whose_name_says_secret(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "v4lue-of-this")
    monkeypatch.setenv("KEYBOARD", "v4lue-of-keyboard")
    assert error_text(ValueError("v4lue-of-this v4lue-of-keyboard")) == "ValueError: *** v4lue-of-keyboard"
    assert clean("v4lue-of-this") == "v4lue-of-this"  # what an agent says is changed by no guess


@pytest.mark.parametrize("value", ["123456", "created_at", "created_at_first", "202611300134", "a1b2c3d4e5f"])
def test_a_variable_that_only_sounds_like_a_secret_masks_nothing(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SORT_KEY", value)
    assert error_text(ValueError(value)) == f"ValueError: {value}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:pw1@host/v1", "https://***@host/v1"),
        ("https://host/v1?model=m&api_key=abc&n=1", "https://host/v1?model=m&api_key=***&n=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dXNlcg=='}", "{'Authorization': 'Basic ***'}"),
        ("got Bearer abc123, allowed", "got Bearer ***, allowed"),
        ('{"api_key": "abc", "model": "m"}', '{"api_key": "***", "model": "m"}'),
        ("Incorrect API key provided: sk-proj-abcdefgh1", "Incorrect API key provided: ***"),
        # what is none
        ("token id: got 512, allowed 0 to 511", "token id: got 512, allowed 0 to 511"),
        ("the bearer of bad news; authorization failed", "the bearer of bad news; authorization failed"),
        ("policy.vllm.secret: got no variable 'KEY'", "policy.vllm.secret: got no variable 'KEY'"),
        ("http://127.0.0.1:8000/v1?model=m", "http://127.0.0.1:8000/v1?model=m"),
    ],
)
def test_errors_hold_nothing_that_looks_like_a_secret(text: str, masked: str) -> None:
    assert error_text(ValueError(text)) == f"ValueError: {masked}"


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"model": "m", "max_tokens": 3, "base_url": "http://h/v1"}, []),
        (
            {"api_key": "x", "default_headers": {"X-Api-Key": "x", "n": "1"}},
            ["api_key", "default_headers.X-Api-Key"],
        ),
        ({"base_url": "http://h/v1?api_key=x"}, ["base_url"]),
        ({"base_url": "http://me:x@h/v1"}, ["base_url"]),
        ({"servers": [{"password": "x"}, "http://me:x@h"]}, ["servers.0.password", "servers.1"]),
    ],
)
def test_settings_that_look_like_a_secret(options: dict[str, Any], keys: list[str]) -> None:
    assert [key for key, _ in open_secrets(options)] == keys


CRASH = """
import logging, os, sys, threading
from aipo.util.masking import mask_output
mask_output()
mask_output()
logging.basicConfig()
logging.getLogger("httpx").warning("sent %s", os.environ["MY_KEY"])
logging.warning("%d items", "x")
logging.getLogger().handlers[0].addFilter(lambda record: print(record.args) or True)
logging.warning("%s items", 3)
leaves = threading.Thread(target=sys.exit)
leaves.start()
leaves.join()
def fail(): raise ValueError(f"refused {os.environ['MY_KEY']}")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_nothing_that_a_process_prints_of_errors_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "v4lue-of-this")
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "v4lue-of-this" not in done.stderr
    assert lines.count("ValueError: refused ***") == 2
    assert "WARNING:httpx:sent ***" in lines
    assert "TypeError: %d format: a real number is required, not str" in lines  # says logging, and goes on
    assert done.stdout == "(3,)\n" and "WARNING:root:3 items" in lines
    assert "SystemExit" not in done.stderr
    assert logging.getLogRecordFactory() is logging.LogRecord
