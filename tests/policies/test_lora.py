"""An adapter changes nothing before it is trained, is all that is trained, and what is saved has it in its weights."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen2ForCausalLM

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, LoadError
from aipo.evaluate.run import evaluate_folder
from aipo.method.settings import MethodSettings
from aipo.policies.lora import LoRASettings, add_adapter
from aipo.policies.vllm.transport import DiskTransport
from aipo.policies.weights import has_adapter, plain, save_snapshot, snapshot
from aipo.run import RunFolder
from aipo.train.trainer import AIPOTrainer
from kit import tiny, training
from kit.recorded import replayed_losses
from kit.tiny_run import train

LORA = LoRASettings(rank=4, alpha=8)
IDS = torch.arange(2, 14)[None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logprobs(network: Any) -> Tensor:
    with torch.no_grad():
        return network(input_ids=IDS).logits.log_softmax(-1)


def with_lora(network: Any = None, *, seed: int = 0) -> Any:
    return add_adapter(tiny.model() if network is None else network, LORA, seed=seed)


GIVEN = training.steps(2, rows=4)


def trainer(folder: Path, model: Any, settings: MethodSettings | None = None, **args: Any) -> AIPOTrainer:
    return training.trainer(folder, GIVEN, model=model, method=settings, **args)


def shaken(network: Any) -> Any:
    """An adapter that does something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return network


def test_an_adapter_that_is_not_trained_changes_nothing_bit_for_bit() -> None:
    network = tiny.model()
    before = logprobs(network)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    trained = with_lora(network)
    assert torch.equal(logprobs(trained), before)
    assert torch.equal(logprobs(network), before)  # it samples with the adapter that it now has
    assert snapshot(trained).keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in snapshot(trained).items())
    assert has_adapter(trained) and plain(trained) is network


def test_adapters_of_one_seed_are_alike_whatever_was_drawn_before() -> None:
    def made(seed: int) -> list[Tensor]:
        return [p for name, p in with_lora(seed=seed).named_parameters() if "lora_A" in name]

    state = torch.random.get_rng_state()
    first = made(3)
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(first, made(3), strict=True))
    assert not torch.equal(first[0], made(4)[0])
    torch.random.set_rng_state(state)


def test_only_the_adapter_is_trained_and_learns_what_the_loss_says(tmp_path: Path) -> None:
    network = with_lora()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    trainer(tmp_path, network).train()
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert len(moved) == 2 * 7 * 2  # two matrices, seven linear layers, two blocks


def test_layers_can_be_chosen() -> None:
    chosen = add_adapter(tiny.model(), LoRASettings(rank=2, targets=("q_proj", "v_proj")), seed=0)
    pieces = {name.partition(".lora_A")[0]: p for name, p in chosen.named_parameters() if "lora_A" in name}
    assert {name.rpartition(".")[2] for name in pieces} == {"q_proj", "v_proj"}
    assert {p.shape[0] for p in pieces.values()} == {2}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_what_is_saved_is_the_merged_network(tmp_path: Path, tied: bool) -> None:
    network = tiny.model()
    network.config.tie_word_embeddings = tied
    network.tie_weights()
    trained = shaken(with_lora(network))
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    DiskTransport(tmp_path).export(trained, 3)  # as servers get it
    assert all(torch.equal(p, before[name]) for name, p in trained.named_parameters())
    (folder,) = tmp_path.iterdir()
    saved = AutoModelForCausalLM.from_pretrained(folder)
    assert type(saved) is Qwen2ForCausalLM and not has_adapter(saved)
    assert (logprobs(saved) - logprobs(tiny.model())).abs().max() > 0.1 or tied
    torch.testing.assert_close(logprobs(saved), logprobs(trained), rtol=1e-5, atol=1e-5)

    theirs = trained.merge_and_unload().state_dict()  # peft's own, which undoes the adapter
    for name, weight in saved.state_dict().items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_of_new_tokens_are_trained_beside_it(tmp_path: Path, tied: bool) -> None:
    network = tiny.model()
    network.config.tie_word_embeddings = tied
    network.tie_weights()
    first = logprobs(network)
    trained = add_adapter(network, LORA, seed=0, token_ids=[3, 5])
    assert torch.equal(logprobs(trained), first)
    names = {
        name.split(".")[-4]
        for name, p in trained.named_parameters()
        if p.requires_grad and "lora" not in name
    }
    assert names == ({"embed_tokens"} if tied else {"embed_tokens", "lm_head"})
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_snapshot(trained, tmp_path / "merged")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logprobs(saved), logprobs(trained), rtol=1e-5, atol=1e-5)
    moved = (saved.model.embed_tokens.weight != tiny.model().model.embed_tokens.weight).any(1)
    assert moved.nonzero().flatten().tolist() == [3, 5]
    with trained.disable_adapter():  # the reference of a KL term
        assert torch.equal(logprobs(trained), first)


def test_weights_of_16_bits_are_rounded_once() -> None:
    trained = shaken(with_lora(tiny.model().to(torch.bfloat16)))
    layer = plain(trained).model.layers[0].mlp.up_proj
    up, down = layer.lora_B.default.weight, layer.lora_A.default.weight
    assert up.dtype == torch.float32
    exact = layer.base_layer.weight.double() + 2.0 * up.double() @ down.double()
    assert torch.equal(snapshot(trained)["model.layers.0.mlp.up_proj.weight"], exact.float().bfloat16())


def test_the_reference_is_the_policy_without_its_adapter(tmp_path: Path) -> None:
    """The KL of a trained adapter is that of all weights to a reference model of its own."""
    settings = tiny.method(beta=0.3)
    with_adapter = trainer(tmp_path / "a", shaken(with_lora(tiny.saved(tmp_path / "m"))), settings)
    save_snapshot(with_adapter.model, tmp_path / "merged")
    merged = Qwen2ForCausalLM.from_pretrained(tmp_path / "merged")
    merged.config.name_or_path = str(tmp_path / "m")
    whole = trainer(tmp_path / "b", merged, settings)
    assert [*with_adapter.model.peft_config] == ["default"]
    one, two = (made._micro_batches(GIVEN[0])[0] for made in (with_adapter, whole))
    assert whole.ref_model is not None and with_adapter.ref_model is None
    torch.testing.assert_close(one["reference_logprobs"], two["reference_logprobs"], rtol=1e-5, atol=1e-5)
    losses = [made._compute_loss(made.model, batch) for made, batch in ((with_adapter, one), (whole, two))]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    assert with_adapter._sums.isclose(whole._sums, rtol=1e-4, atol=1e-4).all()


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_a_resumed_adapter_equals_an_uninterrupted_one(tmp_path: Path, beta: float) -> None:
    settings = tiny.method(beta=beta)
    start = tiny.saved(tmp_path / "start").name_or_path

    def made(folder: str, rollout_steps: int) -> AIPOTrainer:
        args = {"rollout_steps": rollout_steps, "save_every": 1, "lr_scheduler_type": "constant"}
        return trainer(
            tmp_path / folder, with_lora(Qwen2ForCausalLM.from_pretrained(start)), settings, **args
        )

    whole = made("whole", 2)
    whole.train()
    made("cut", 1).train()
    files = {path.name for path in (tmp_path / "cut" / "checkpoint-1").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    resumed = made("cut", 2)
    resumed.train(resume_from_checkpoint=True)
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in resumed.model.named_parameters())


def test_micro_batches_of_a_step_are_one_batch(tmp_path: Path) -> None:
    """Accumulated over four micro-batches, weights after two steps are those of whole batches."""

    def trained(folder: str, gradient_accumulation: int) -> dict[str, Tensor]:
        args = {"gradient_accumulation": gradient_accumulation, "optim": "sgd", "learning_rate": 0.1}
        made = trainer(tmp_path / folder, with_lora(), **args)
        made.train()
        return dict(made.model.named_parameters())

    whole, cut, start = trained("whole", 1), trained("cut", 4), dict(with_lora().named_parameters())
    assert any(not torch.equal(weight, start[name]) for name, weight in whole.items())
    for name, weight in whole.items():
        torch.testing.assert_close(cut[name], weight, rtol=1e-5, atol=1e-6)


# -- aipo train ------------------------------------------------------------------------------------------


def test_a_run_with_an_adapter_leaves_a_policy_like_any_other(tmp_path: Path) -> None:
    coin = Path(__file__).parents[1] / "kit" / "engines.py"
    words = [
        *(f"run.out={tmp_path / 'run'}", "run.threads=1", "policy.options.steps=60", "policy.lora={rank: 4}"),
        *(f"env.name={coin}:Coin", "env.mixture={coin: 1.0}", "rollout.max_tokens=12"),
        *("evaluate.splits=[coin]", "evaluate.samples=2", "evaluate.ks=[1]", "evaluate.settings=[solo]"),
        *(
            "train.tasks_per_step=2",
            "train.group_size=4",
            "train.minibatches=1",
            "train.passes=1",
            "train.steps=2",
        ),
        *("train.save_every=1", "train.learning_rate=1e-3"),
    ]
    folder = RunFolder(tmp_path / "run")
    train(load_experiment("aipo_distil", words))
    metrics = folder.read_metrics()
    # What samples has the adapter that is trained.
    assert max(line["mismatch/mean"] for line in metrics) < 1e-5
    assert max(abs(line["loss"]) for line in metrics) > 0

    files = {path.name for path in folder.model.iterdir()}
    assert "model.safetensors" in files and not any("adapter" in name for name in files)
    weights = load_file(folder.model / "model.safetensors")
    assert not any("lora" in name for name in weights)

    evaluate_folder(folder.path, None, [], name="eval", console=Console(quiet=True))
    assert folder.evaluation("eval").is_file()

    # A replay looks through the adapters in the checkpoints, and finds what training logged.
    outcomes = replayed_losses(folder.path, tmp_path / "looked", checkpoint="nearest")
    assert [one["weights"] for one in outcomes] == ["start", "checkpoint-1"]
    for one in outcomes:
        assert one["loss"] == pytest.approx(one["online"]["loss"], rel=1e-4, abs=1e-6)
        assert one["grad_norm"] == pytest.approx(one["online"]["grad_norm"], rel=1e-3)

    # Going on from the first checkpoint ends with the same policy.
    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    shutil.rmtree(folder.model)
    train(load_experiment("aipo_distil", words), resume=True)
    again = load_file(folder.model / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=1e-5)


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["lm_head", "q_porj", "embed_tokens"])
def test_layers_that_cannot_have_an_adapter_are_refused(target: str) -> None:
    says = re.escape(
        f"policy.lora.targets: got ['{target}'], allowed ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', "
        "'up_proj', 'v_proj'], the linear layers of Qwen2ForCausalLM"
    )
    with pytest.raises(ConfigError, match=says):
        add_adapter(tiny.model(), LoRASettings(targets=("v_proj", target)), seed=0)


def test_a_network_without_linear_layers_is_refused() -> None:
    """GPT-2 has its weights the other way round, which a merged snapshot does not know."""
    network = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=32, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ConfigError, match=r"policy\.lora\.targets: got none, allowed \[\]"):
        with_lora(network)


def test_an_adapter_alone_is_no_policy(tmp_path: Path) -> None:
    with_lora(tiny.saved(tmp_path / "whole")).save_pretrained(tmp_path / "adapter")
    config = load_experiment("aipo_distil", [f"policy.model={tmp_path / 'adapter'}"])
    says = r"policy\.model: got '.*adapter', which holds an adapter of '.*whole', allowed"
    with pytest.raises(LoadError, match=says):
        config.network(config.policy.model)


def test_a_key_of_an_optional_section_is_refused_by_name() -> None:
    says = r"policy\.lora\.rnk: unknown key; did you mean 'policy\.lora\.rank'\?"
    with pytest.raises(ConfigError, match=says):
        load_experiment("aipo_distil", ["policy.lora.rnk=3"])
    assert load_experiment("aipo_distil", ["policy.lora={}"]).policy.lora == LoRASettings()
    assert load_experiment("aipo_distil").policy.lora is None
