# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A progress bar for a training in phases."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from destseg_anomalib.training.loans import Loans


class PhaseProgressBar(RichProgressBar):
    """Lightning's bar, which counts the steps of the whole training, and shows the losses of the phase at hand alone.

    Lightning's own counts the batches of an epoch, which is a phase here, and keeps losses on show that nobody computes
    any more.
    """

    @property
    def total_train_batches(self) -> int:
        """Steps of the whole training."""
        return self.trainer.max_steps

    _phase = 0
    _asked = math.nan
    _shown: dict[str, Any]

    def _get_train_description(self, current_epoch: int) -> str:
        del current_epoch
        return f"Phase {self._phase + 1}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin in the phase that a training goes on in; one that was stopped in its middle begins none."""
        super().on_train_start(trainer, pl_module)
        self._enter_phase(trainer, pl_module)

    def _enter_phase(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401  it has phases
        self._phase, _ = pl_module.position(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a phase at the step that has been reached."""
        self._enter_phase(trainer, pl_module)
        super().on_train_epoch_start(trainer, pl_module)
        self._update(self.train_progress_bar_id, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Advance to the step that has been taken."""
        del batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:  # noqa: ANN401
        """Ask for what has been logged anew, without what the bar says otherwise and losses of the phase before."""
        if self._asked != pl_module.logged:
            self._asked = pl_module.logged
            metrics = super().get_metrics(trainer, pl_module)
            over = {"phase", "v_num", *(["student_loss"] if self._phase else [])}
            self._shown = {name: value for name, value in metrics.items() if name not in over}
        return self._shown


def show_phases(trainer: Trainer, pl_module: LightningModule, loans: Loans) -> None:
    """Put the bar in the place of Lightning's own until the stage ends; a bar of the user's choice stays.

    Args:
        trainer: The trainer, in the setup of a training.
        pl_module: The model.
        loans: Takes it back.
    """
    theirs = trainer.progress_bar_callback
    if type(theirs) is not RichProgressBar:
        return
    # What a phase ended with stays on show, in a log file as well.
    ours = PhaseProgressBar(theirs._refresh_rate, leave=True, theme=theirs.theme, console_kwargs=theirs._console_kwargs)
    ours.setup(trainer, pl_module, "fit")

    def replace(old: object, new: object) -> None:
        trainer.callbacks = [new if callback is old else callback for callback in trainer.callbacks]  # type: ignore[attr-defined]

    replace(theirs, ours)
    loans.on_return(lambda: replace(ours, theirs))
