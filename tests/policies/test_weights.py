"""Copies of a model: tags as tokens that begin as what spelled them, and embeddings untied for a server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from aipo.errors import LoadError
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.weights import save_snapshot, untied, with_tags
from kit.tiny import chat_tokenizer, qwen2

OLD = chat_tokenizer()
SIZE = 1 + len(OLD)  # bytes, special tokens, and <|endoftext|>, which transformers adds for Qwen2
TAGS = ("<consult:a>", "</consult>")
A, CLOSE = SIZE, SIZE + 1
TEXT = np.array(OLD.encode("So it is 4."), np.int32)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def saved(folder: Path, *, rows: int = SIZE, tied: bool = False) -> Path:
    qwen2(rows, num_hidden_layers=1, tie_word_embeddings=tied).save_pretrained(folder)
    OLD.inner.save_pretrained(folder)
    return folder


def loaded(folder: Path | str) -> tuple[PreTrainedModel, HFTokenizer]:
    from transformers import AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), HFTokenizer(AutoTokenizer.from_pretrained(folder))


def rows_of(network: PreTrainedModel) -> list[Tensor]:
    return [network.get_input_embeddings().weight, network.get_output_embeddings().weight]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [(SIZE, SIZE + 2), (SIZE + 1, SIZE + 2), (SIZE + 64, SIZE + 64)],  # none, some or enough to spare
)
def test_a_new_token_begins_as_the_mean_of_its_pieces(
    tmp_path: Path, rows: int, expected: int, tied: bool
) -> None:
    model = saved(tmp_path / "m", rows=rows, tied=tied)
    network, tokenizer = loaded(with_tags(model, TAGS))
    before, _ = loaded(model)
    assert [tokenizer.token_id(tag) for tag in TAGS] == [A, CLOSE]
    assert network.config.vocab_size == expected
    for new, old in zip(rows_of(network), rows_of(before), strict=True):
        assert new.shape[0] == expected
        assert torch.equal(new[A], old[OLD.encode("<consult:a>")].mean(0))
        assert torch.equal(new[CLOSE], old[OLD.encode("</consult>")].mean(0))
        assert torch.equal(new[:SIZE], old[:SIZE])
    assert (rows_of(network)[0] is rows_of(network)[1]) is tied
    ids = torch.from_numpy(TEXT)[None].long()
    torch.testing.assert_close(network(ids).logits[..., :SIZE], before(ids).logits[..., :SIZE])


def test_a_new_token_that_no_tokens_spelled_begins_as_the_mean_of_all(tmp_path: Path) -> None:
    backend = Tokenizer(BPE({"a": 0, "b": 1, "<eos>": 2}, []))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(tmp_path / "m")
    qwen2(8, num_hidden_layers=1).save_pretrained(tmp_path / "m")
    before = rows_of(loaded(tmp_path / "m")[0])
    network, tokenizer = loaded(with_tags(tmp_path / "m", ["<xyz>"]))
    new = tokenizer.token_id("<xyz>")
    for made, old in zip(rows_of(network), before, strict=True):
        assert torch.equal(made[new], old.mean(0))


def test_only_what_is_control_becomes_the_new_tokens(tmp_path: Path) -> None:
    _, tokenizer = loaded(with_tags(saved(tmp_path / "m"), TAGS))
    assert tokenizer.encode("a<consult:a>b", control=True) == [*OLD.encode("a"), A, *OLD.encode("b")]
    assert tokenizer.encode("a<consult:a>b") == OLD.encode("a<consult:a>b")
    assert tokenizer.decode([A, CLOSE]) == "<consult:a></consult>"
    assert tokenizer.control_in("x</consult>") == ["</consult>"]
    assert not {*TAGS} & {*tokenizer.inner.all_special_tokens}


def test_it_is_made_once_and_a_model_that_has_the_tags_is_taken_as_it_is(tmp_path: Path) -> None:
    model = saved(tmp_path / "m")
    made = Path(with_tags(model, TAGS))
    first = (made / "model.safetensors").stat().st_mtime_ns
    assert with_tags(model, TAGS) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == first
    assert with_tags(made, TAGS) == made  # as a run's model/ or a checkpoint
    assert with_tags(model, TAGS[:1]) != made
    more, tokenizer = loaded(with_tags(made, (*TAGS, "<x>")))  # one tag more, for an agent more
    assert tokenizer.token_id("<x>") == SIZE + 2
    assert torch.equal(more.get_input_embeddings().weight[A], rows_of(loaded(made)[0])[0][A])


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    first = with_tags(saved(tmp_path / "m"), TAGS)
    qwen2(SIZE, seed=1, num_hidden_layers=1).save_pretrained(tmp_path / "m")
    second = with_tags(tmp_path / "m", TAGS)
    assert first != second and not torch.equal(rows_of(loaded(first)[0])[0], rows_of(loaded(second)[0])[0])


def test_types_of_numbers_stay(tmp_path: Path) -> None:
    model = saved(tmp_path / "m")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    with safe_open(Path(with_tags(model, TAGS)) / "model.safetensors", "pt") as file:
        assert file.get_tensor("lm_head.weight").dtype == torch.bfloat16


def test_a_model_that_lacks_weights_is_not_made_whole_with_random_ones(tmp_path: Path) -> None:
    model = saved(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2, "layer_types": None}))
    with pytest.raises(LoadError, match=r"whose files lack \d+ weights of Qwen2ForCausalLM"):
        with_tags(model, TAGS)


def test_a_copy_with_an_output_layer_of_its_own_computes_the_same(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", tied=True)
    copy = untied(model)
    network, _ = loaded(copy)
    assert rows_of(network)[0] is not rows_of(network)[1]
    assert score(network, TEXT, TEXT).tolist() == score(loaded(model)[0], TEXT, TEXT).tolist()
    assert untied(copy) == copy and untied(saved(tmp_path / "u")) == tmp_path / "u"
    assert json.loads((Path(copy) / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_what_servers_get_has_the_output_layer(tmp_path: Path, tied: bool) -> None:
    """For one that serves the untied copy; one that ties them leaves it out."""
    network, _ = loaded(saved(tmp_path / "m", tied=tied))
    save_snapshot(network, tmp_path / "s", for_server=True)
    with safe_open(tmp_path / "s" / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("lm_head.weight"), rows_of(network)[1])
    again, _ = loaded(tmp_path / "s")
    assert score(again, TEXT, TEXT).tolist() == score(network, TEXT, TEXT).tolist()
