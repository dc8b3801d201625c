"""What we override or call of TRL and transformers, pinned: a new release that moves it fails here."""

import inspect

import pytest
from transformers import Trainer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.base_trainer import _BaseTrainer

SIGNATURES = {
    GRPOTrainer._prepare_inputs: "(self, generation_batch)",
    GRPOTrainer._compute_loss: "(self, model, inputs)",
    GRPOTrainer.compute_loss: "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
    GRPOTrainer.training_step: "(self, model, inputs, num_items_in_batch)",
    GRPOTrainer.log: "(self, logs, start_time=None)",
    GRPOTrainer._generate_and_score_completions: "(self, inputs)",
    GRPOTrainer._get_train_sampler: "(self, dataset=None)",
    GRPOTrainer._get_per_token_logps_and_entropies: (
        "(self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, "
        "compute_aux_loss=False, pixel_values=None, image_grid_thw=None, num_images=None, "
        "pixel_attention_mask=None, spatial_shapes=None, num_tiles=None, image_sizes=None, "
        "token_type_ids=None, mm_token_type_ids=None, image_position_ids=None)"
    ),
    GRPOTrainer.__init__: (
        "(self, model, reward_funcs=None, args=None, train_dataset=None, eval_dataset=None, "
        "processing_class=None, reward_processing_classes=None, callbacks=None, optimizers=(None, None), "
        "quantization_config=None, peft_config=None, tools=None, rollout_func=None, environment_factory=None)"
    ),
    _BaseTrainer._send_telemetry: "(self)",
    GRPOTrainer._save_checkpoint: "(self, model, trial)",
    GRPOTrainer.create_model_card: "(self, model_name=None, dataset_name=None, tags=None)",
    Trainer._get_output_dir: "(self, trial)",
    Trainer._prepare_inputs: "(self, inputs)",
    Trainer.create_accelerator_and_postprocess: "(self)",
    **{
        getattr(TrainerCallback, f"on_{event}"): "(self, args, state, control, **kwargs)"
        for event in ("train_begin", "pre_optimizer_step", "optimizer_step", "step_end", "log")
    },
}


def signature(function: object) -> str:
    """Names and defaults; annotations may change without harm."""
    bare = inspect.signature(function)  # type: ignore[arg-type]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in bare.parameters.values()]
    return str(inspect.Signature(plain))


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_signature(function: object):
    assert signature(function) == SIGNATURES[function]


def test_rows_reach_the_loss_through_prepare_inputs_alone():
    """TRL's sampling is called from `_prepare_inputs`, which we replace, and nowhere else."""
    callers = [
        name
        for name, method in inspect.getmembers(GRPOTrainer, inspect.isfunction)
        if "self._generate_and_score_completions(" in inspect.getsource(inspect.unwrap(method))
    ]
    assert callers == ["_prepare_inputs"]


def test_the_loss_is_scaled_by_us():
    """transformers would divide it by the number of micro-batches once more."""
    assert GRPOTrainer.loss_is_scaled_for_ga is True


ORDERS = {
    GRPOTrainer.training_step: ["super().training_step(", "self._step += 1"],
    Trainer.training_step: ["self._prepare_inputs(inputs)", "self.compute_loss("],
    # the learning rate is logged after it has been restored
    Trainer._run_epoch: [
        "callback_handler.on_pre_optimizer_step(",
        "self.optimizer.step()",
        "callback_handler.on_optimizer_step(",
        "self._get_learning_rate()",
        "self.lr_scheduler.step()",
        "self.state.global_step += 1",
        "callback_handler.on_step_end(",
        "self._maybe_log_save_evaluate(",
    ],
}


@pytest.mark.parametrize("function", ORDERS, ids=lambda f: f.__qualname__)
def test_what_a_step_does_in_which_order(function: object):
    source = inspect.getsource(function)
    places = [source.index(line) for line in ORDERS[function]]
    assert places == sorted(places)


def test_defaults_that_parity_depends_on():
    defaults = {name: field.default for name, field in GRPOConfig.__dataclass_fields__.items()}
    pinned = {"importance_sampling_level": "token", "use_bias_correction_kl": True}
    pinned |= {"top_entropy_quantile": 1.0, "delta": None}
    assert pinned.items() <= defaults.items()
