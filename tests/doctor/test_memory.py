"""Memory arithmetic: numbers to check by hand, and what autograd really keeps."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from aipo.doctor.memory import (
    GIB,
    Adapter,
    Shape,
    activations,
    cache,
    checkpoint,
    gib,
    host,
    logits,
    training,
)
from kit.tiny import model

SMALL = Shape(
    parameters=1000, layers=2, hidden=10, intermediate=30, heads=2, kv_heads=1, head_dim=5, vocabulary=40
)
QWEN_7B = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)


def test_states_of_full_training() -> None:
    parts = training(SMALL, dtype="float32", tokens=0)
    assert parts == {
        "weights": 4000,
        "gradients": 4000,
        "optimiser": 8000,
        "logits": 4 * 10 * 40,  # the head's gradient
    }


def test_states_of_an_adapter() -> None:
    """It is float32, whatever the frozen weights are, and its network without it is the reference."""
    parts = training(SMALL, dtype="bfloat16", tokens=0, adapter=Adapter(2, 100), reference=True)
    assert parts == {"weights": 2000, "adapter": 400, "gradients": 400, "optimiser": 800}


def test_a_reference_is_a_second_network() -> None:
    assert training(SMALL, dtype="bfloat16", tokens=0, reference=True)["reference"] == 2000
    assert training(SMALL, dtype="bfloat16", tokens=0, reference=True, ranks=4)["reference"] == 500 + 2 * 2000


def test_a_machine_holds_every_network_before_it_is_cut() -> None:
    assert host(SMALL, dtype="float32", ranks=4) == {"networks": 16_000, "copy": 4000}
    with_reference = {"networks": 4000, "references": 4000, "copy": 2000}
    assert host(SMALL, dtype="bfloat16", ranks=2, reference=True) == with_reference


def test_parameters_of_an_adapter() -> None:
    """Rank 2 on layers of 8 to 8, 4, 4, 8 (attention) and 12 (MLP) and back, twice."""
    config = Qwen2Config(
        vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    assert Adapter.of(config, 2) == Adapter(2, 2 * 2 * (16 + 12 + 12 + 16 + 3 * 20))
    assert Adapter.of(config, 2, ("q_proj", "v_proj")) == Adapter(2, 2 * 2 * (16 + 12))


def test_states_are_cut_over_ranks() -> None:
    parts = training(SMALL, dtype="float32", tokens=0, ranks=4, autocast=True)
    assert (parts["weights"], parts["gradients"], parts["optimiser"]) == (1000, 1000, 2000)
    # Two of the two layers, and an output layer of 40 x 10, as float32 as the weights; and two layers' gradients.
    assert parts["gathered"] == 4 * (2 * 500 + 400 + 2 * 500)
    frozen = training(SMALL, dtype="bfloat16", tokens=0, ranks=4, adapter=Adapter(2, 100))
    assert frozen["gathered"] == 2 * (2 * 500 + 400)
    assert "gathered" not in training(SMALL, dtype="float32", tokens=0)


@pytest.mark.parametrize(
    ("ranks", "checkpointing", "copies"),
    [(1, False, 2000), (1, True, 2000), (4, False, 2000), (4, True, 0)],
)
def test_copies_that_autocast_keeps(ranks: int, checkpointing: bool, copies: int) -> None:
    """In a cache as long as a forward pass lasts, which sharded weights have none of, or for the backward pass."""
    parts = training(
        SMALL, dtype="float32", tokens=0, ranks=ranks, autocast=True, activation_checkpointing=checkpointing
    )
    assert parts.get("compute copies", 0) == copies


def test_activations_by_hand() -> None:
    """One token of one layer: two norms (in, out), q, k, v, attention's output, and four of the MLP's width."""
    elements = 4 * 10 + (10 + 5 + 5 + 10) + 4 * 30
    exact = 2 * 10 + 2 + 2  # two norms' inputs and scales, one sum per head
    one = 2 * elements + 4 * exact
    assert activations(SMALL, dtype="bfloat16", tokens=1, autocast=False, checkpointing=False) == 2 * one
    assert activations(SMALL, dtype="bfloat16", tokens=7, autocast=False, checkpointing=False) == 14 * one
    again = activations(SMALL, dtype="bfloat16", tokens=1, autocast=False, checkpointing=True)
    assert again == 2 * 2 * 10 + one


@pytest.mark.parametrize(
    ("dtype", "autocast", "rank"),
    [
        ("float32", False, 0),
        ("bfloat16", False, 0),
        ("float32", True, 0),
        ("float32", False, 3),
        ("bfloat16", False, 3),
    ],
)
@pytest.mark.parametrize(
    ("network", "config", "widths"),
    [
        (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 4}),
        (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2, "head_dim": 32, "hidden_size": 96}),
    ],
)
def test_activations_are_those_that_autograd_keeps(
    network: Any, config: Any, widths: dict[str, int], dtype: str, autocast: bool, rank: int
) -> None:
    settings = {
        "vocab_size": 32,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        **widths,
    }
    kept = {}
    for layers in (1, 2):
        made = config(num_hidden_layers=layers, **settings)
        whole = network(made).to(getattr(torch, dtype))
        kept[layers] = _kept(_adapted(whole, rank) if rank else whole, autocast)
    told = activations(
        Shape.of(made), dtype=dtype, tokens=2 * 61, autocast=autocast, checkpointing=False, rank=rank
    )
    assert kept[2] - kept[1] == told / 2


def _adapted(network: Any, rank: int) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(
        network, peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def _kept(network: Any, autocast: bool) -> int:
    """Bytes that autograd keeps of a forward pass, weights and their copies apart."""
    sizes = {tuple(p.shape) for p in network.parameters()} | {
        tuple(p.shape[::-1]) for p in network.parameters()
    }
    seen: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in sizes:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(2, 61, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(input_ids=ids, use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def test_logits() -> None:
    assert logits(SMALL, tokens=3, dense=True) == 4 * 4 * 3 * 40
    assert logits(SMALL, tokens=3, dense=False) == 4 * 10 * (40 + 3)
    assert logits(SMALL, tokens=3, dense=False, frozen=True) == 4 * 10 * 3


def test_the_cache_of_a_known_model() -> None:
    """Qwen2.5-7B: 28 layers x 4 shared heads x 128 numbers, keys and values, 2 bytes each: 56 KiB a token."""
    shape = Shape.of(QWEN_7B)
    assert shape.parameters == 7_615_616_512
    assert cache(shape, dtype="bfloat16", tokens=1) == 2 * 28 * 4 * 128 * 2 == 56 * 1024
    assert gib(cache(shape, dtype="bfloat16", tokens=20_480)) == "1.09 GiB"
    assert gib(training(shape, dtype="float32", tokens=0)["optimiser"]) == "56.7 GiB"


@pytest.mark.parametrize("tied", [False, True])
def test_a_shape_counts_tied_weights_once(tied: bool) -> None:
    config = Qwen2Config(
        vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    # q and its bias, k and v and theirs, o; gate, up, down; three norms; embedding, and the head.
    layer = (8 * 8 + 8) + 2 * (8 * 4 + 4) + 8 * 8 + 3 * 8 * 12 + 3 * 8
    assert Shape.of(config).parameters == layer + 16 * 8 * (1 if tied else 2)


def test_a_shape_is_that_of_the_network() -> None:
    network = model()
    assert Shape.of(network.config).parameters == sum(p.numel() for p in network.parameters())


def test_a_checkpoint_holds_weights_and_two_means() -> None:
    assert checkpoint(SMALL, dtype="float32") == 12_000
    assert checkpoint(SMALL, dtype="bfloat16", adapter=Adapter(1, 10)) == 120


@pytest.mark.parametrize(
    ("count", "said"),
    [(512, "0.5 KiB"), (3 << 20, "3 MiB"), (1.5 * GIB, "1.5 GiB"), (1234.4 * GIB, "1234 GiB")],
)
def test_bytes_are_said(count: float, said: str) -> None:
    assert gib(count) == said
