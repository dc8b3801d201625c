"""The miniature's policy: its tokenizer, what it is shown, and a cold start in small."""

import errno
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from aipo.errors import ConfigError, RunError
from envs.miniature.model import TAGS, cold_start, network, tokenizer
from graphs.notices import NOTICES
from graphs.protocol import Grammar

WORDS = tokenizer()
TRACE = "3@7+5=?\n<consult:knowledge>3@7</consult><feedback:knowledge>3@7=582</feedback>3@7=582\n582+5=587\n#587<eos>"
STEPS = 30


# The tokenizer


def test_a_trace_is_one_token_per_character_and_per_tag() -> None:
    ids = WORDS.encode(TRACE)
    assert len(ids) == 8 + 1 + 3 + 1 + 1 + 7 + 1 + 8 + 10 + 4 + 1
    assert WORDS.decode(ids) == TRACE


@pytest.mark.parametrize("tag", [*TAGS, "<eos>", "<pad>"])
def test_tags_are_single_special_tokens(tag: str) -> None:
    assert WORDS.encode(tag) == [WORDS.convert_tokens_to_ids(tag)]
    assert tag in WORDS.all_special_tokens
    # written by somebody else they are plain text
    plain = WORDS.encode(tag, split_special_tokens=True)
    assert len(plain) == len(tag)
    assert WORDS.decode(plain) == tag


def test_the_tags_are_those_of_the_protocol() -> None:
    grammar, agents = Grammar(), ("verify", "knowledge", "reasoning")
    named = {t.replace("{agent}", a) for t in (grammar.open, grammar.feedback_open) for a in agents}
    closing = {grammar.close, grammar.feedback_close, grammar.notice_open, grammar.notice_close}
    assert set(TAGS) == named | closing


@pytest.mark.parametrize("fault", NOTICES)
def test_every_notice_can_be_written(fault) -> None:
    text = Grammar().notice(fault, "knowledge", ["verify", "reasoning"])
    ids = WORDS.encode(text, split_special_tokens=True)
    assert len(ids) == len(text)
    assert WORDS.decode(ids) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_any_normalised_text_survives(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert WORDS.decode(WORDS.encode(text, split_special_tokens=True)) == text


# The cold start


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, float]]]:
    cache, seen = tmp_path_factory.mktemp("cache"), []
    folder = cold_start(seed=0, steps=STEPS, cache=cache, progress=lambda *now: seen.append(now))
    return folder, seen


def test_a_short_cold_start_lowers_the_loss(started) -> None:
    _, seen = started
    assert [(step, steps) for step, steps, _ in seen] == [(10, STEPS), (20, STEPS), (30, STEPS)]
    assert seen[-1][2] < seen[0][2] < 5.6  # ln(270): what knowing nothing costs


def test_it_is_built_once(started) -> None:
    folder, _ = started
    before = (folder / "model.safetensors").stat().st_mtime_ns
    never = cold_start(
        seed=0, steps=STEPS, cache=folder.parent, progress=lambda *now: pytest.fail("built again")
    )
    assert never == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert {path.name for path in folder.parent.iterdir()} == {
        folder.name,
        f".{folder.name}.lock",
    }  # no draft


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_numbers(
    started, tmp_path
) -> None:
    folder, _ = started
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = cold_start(seed=0, steps=STEPS, cache=tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert again.name == folder.name
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_seed_steps_course_and_source_are_the_key(started, tmp_path) -> None:
    folder, _ = started
    names = {
        cold_start(seed=seed, steps=steps, course=course, cache=tmp_path).name
        for seed, steps, course in ((0, 1, "facts"), (1, 1, "facts"), (0, 2, "facts"), (0, 1, "full"))
    }
    assert len(names | {folder.name}) == 5


def test_another_course_is_refused() -> None:
    says = r"course .*: got 'ful', allowed one of \['facts', 'full', 'quick', 'distractors', 'silent'\]"
    with pytest.raises(ConfigError, match=says):
        cold_start(course="ful")


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cold_start(steps=1).parent == tmp_path / "aipo"


def test_a_full_disk_says_so_and_leaves_no_draft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Qwen2ForCausalLM, "save_pretrained", full)
    with pytest.raises(RunError, match=r"saving the miniature's policy: got .*No space left"):
        cold_start(steps=1, cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_the_folder_is_an_ordinary_model_and_tokenizer(started) -> None:
    folder, _ = started
    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert words.encode(TRACE) == WORDS.encode(TRACE)
    assert words.decode(words.encode(TRACE)) == TRACE
    assert (words.pad_token_id, words.eos_token_id) == (model.config.pad_token_id, model.config.eos_token_id)
    assert model.config.model_type == "qwen2"
    assert len(words) == model.config.vocab_size
    assert model(input_ids=torch.tensor([words.encode(TRACE)])).logits.isfinite().all()


def test_input_and_output_embeddings_are_two_matrices() -> None:
    model = network(len(WORDS))
    assert model.get_input_embeddings().weight.data_ptr() != model.get_output_embeddings().weight.data_ptr()


def test_a_larger_policy_has_more_heads_and_the_same_size_of_them() -> None:
    config = network(len(WORDS), 32, width=192, layers=3).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers) == (6, 6, 3)
    assert config.intermediate_size == 512


@pytest.mark.parametrize("options", [{"width": 100}, {"width": 0}, {"layers": 0}])
def test_a_width_or_depth_that_does_not_exist_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="width and layers of the miniature's policy: got"):
        network(len(WORDS), **options)
