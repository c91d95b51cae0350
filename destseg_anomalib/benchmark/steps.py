# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How far a running job is: a small file in its folder, written by its process and read by the benchmark's."""

import contextlib
import json
import math
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer

from destseg_anomalib.report.results import write_whole

FILE = "progress.json"
EVERY = 0.5  # seconds: what a terminal shows need not be newer


class Steps(NamedTuple):
    """Where a job is.

    Attributes:
        doing: `training` or `testing`.
        done: Batches so far.
        total: Batches in all; 0 if nobody knows.
    """

    doing: str
    done: int
    total: int

    @property
    def share(self) -> float:
        """Part of the training that is done, in [0, 1]."""
        if self.doing == "testing":
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0


def read_steps(folder: Path) -> Steps | None:
    """Read how far a job is.

    Args:
        folder: The job's folder.

    Returns:
        None if it has not begun, has ended, or runs on a machine that does not share this folder.
    """
    try:
        return Steps(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError):
        return None


class StepsFile(Callback):
    """Writes how far a job is, for as long as its stages run.

    Args:
        folder: The job's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._written = float("-inf")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Count batches of training, those of all epochs."""
        del pl_module, args
        self._write("training", trainer.fit_loop.total_batch_idx + 1, _batches_of_training(trainer))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count batches of the test."""
        del pl_module, outputs, batch
        self._write("testing", batch_idx + 1, int(trainer.num_test_batches[dataloader_idx]))

    def _write(self, doing: str, done: int, total: int) -> None:
        now = monotonic()
        if now - self._written < EVERY:
            return
        self._written = now
        with contextlib.suppress(OSError):  # a disk that is full ends no job here
            write_whole(self.path, json.dumps(Steps(doing, done, total)._asdict()))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing."""
        del trainer, pl_module, stage
        self.path.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing when a stage fails, either."""
        del exception
        self.teardown(trainer, pl_module, "")


def _batches_of_training(trainer: Trainer) -> int:
    """Batches that a training has, or 0 if it ends by something else than their number."""
    if trainer.max_steps > 0:
        return trainer.max_steps * trainer.accumulate_grad_batches
    total = trainer.num_training_batches * max(trainer.max_epochs or 0, 0)
    return int(total) if math.isfinite(total) else 0
