"""How a trainer writes checkpoints: whole or not at all, and with a card that says what they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import SaveStrategy
from trl.trainer.grpo_trainer import GRPOTrainer

from aipo.config.build import Experiment
from aipo.errors import OtherRankError
from aipo.policies.lora import base_of
from aipo.render.templating import fill_card
from aipo.run import RunFolder
from aipo.train.ranks import Ranks
from aipo.util.files import disk
from aipo.util.termination import TERMINATION
from aipo.util.whole import CARD, MANIFEST, damage, drop_drafts, new_draft, publish


def write_card(draft: Path, run: RunFolder, experiment: Experiment, steps: int) -> None:
    """Writes README.md of a checkpoint or a trained policy: what it is, and how to load it.

    Args:
        draft: its folder, with everything else in it.
        steps: rollout steps behind it.
    """
    text = fill_card(
        "aipo.train",
        "model_card.md.j2",
        run=run.path.name,
        folder=draft.name,
        base=base_of(draft),
        manifest=run.read_manifest(),
        experiment=experiment,
        method=experiment.method,
        steps=steps,
        settings=".." if draft.name == run.model.name else "../..",
        loadable=any(draft.glob("*.safetensors")),
    )
    (draft / CARD).write_text(text + "\n", encoding="utf-8")


class SavingTrainer(GRPOTrainer):
    """TRL's trainer, with checkpoints as `aipo.util.whole` writes folders.

    Attributes:
        on_checkpoint: called on rank 0 with the draft of each checkpoint, which it may add files to.
        on_saved: called on rank 0 with each checkpoint when it is whole.
    """

    ranks: Ranks
    on_checkpoint: Callable[[Path], None]
    on_saved: Callable[[Path], None]
    _drafts: Path | None = None

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Writes none: TRL's does not say what this is."""

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._drafts is None else str(self._drafts)

    def keep_boundary(self) -> None:
        """Between two rollout steps, at the end of a run that is not over: a checkpoint, where the run makes any.

        Raises:
            OtherRankError: on other ranks than the first.
            RunError: the disk is full or broken.
        """
        folder = Path(self._get_output_dir(None)) / f"checkpoint-{self.state.global_step}"
        wanted = self.args.save_strategy != SaveStrategy.NO and self.state.global_step > 0
        if wanted and not self.ranks.broadcast(
            lambda: (folder / MANIFEST).is_file() and damage(folder) is None
        ):
            self._save_checkpoint(self.model, None)
        if not self.ranks.is_main:
            raise OtherRankError("rank 0 got a signal to end")
        if wanted:
            TERMINATION.kept = f"{folder} is whole; --resume goes on from it"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The files of all ranks, then the manifest, then the name.

        Raises:
            RunError: the disk is full or broken.
        """
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"

        def finish() -> None:
            self.on_checkpoint(draft)
            publish(draft, folder)
            self.on_saved(folder)

        with disk(f"saving {folder.name}", folder.parent):
            draft = self.ranks.broadcast(lambda: new_draft(folder))
            self._drafts = draft.parent
            try:
                super()._save_checkpoint(model, trial)
                self.ranks.gather([self.ranks.rank])  # until here all of them have written theirs
                self.ranks.on_main(finish)
            finally:
                self._drafts = None
                if self.ranks.is_main:
                    drop_drafts(folder.parent)
