"""How a trainer writes checkpoints: whole, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import SaveStrategy
from trl.trainer.grpo_trainer import GRPOTrainer

from aipo.errors import OtherRankError
from aipo.train.ranks import Ranks
from aipo.util.files import disk
from aipo.util.termination import TERMINATION
from aipo.util.whole import drop_drafts, new_draft, publish


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
        if wanted and self.ranks.broadcast(lambda: not folder.exists()):
            self._save_checkpoint(self.model, None)
        if not self.ranks.is_main:
            raise OtherRankError("rank 0 got a SIGTERM")
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
