# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a test says of a model's own threshold, on the terminal and in the folder of the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.data import Batch
from lightning.pytorch import LightningModule, Trainer

from destseg_anomalib.metrics.guest import Guest
from destseg_anomalib.metrics.images import ImageRecord, image_names, image_records, of_all_processes
from destseg_anomalib.metrics.last_line import say
from destseg_anomalib.metrics.verdicts import (
    Verdict,
    operating_point,
    print_operating_point,
    verdicts,
    write_operating_point,
)


class VerdictTable(Guest):
    """Counts in a test what a model's threshold does, for a model whose evaluator does not."""

    def __init__(self) -> None:
        self._images: list[ImageRecord] = []
        self._verdicts: list[Verdict] = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object, **kwargs: object
    ) -> None:
        """Note what the post-processor has said of a batch."""
        del args, kwargs
        names = image_names(outputs, trainer.global_rank, len(self._images))
        self._images += image_records(outputs, outputs.pred_score, names)
        self._verdicts += verdicts(outputs, min_area=getattr(pl_module.post_processor, "min_area", 1))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it."""
        images, said = of_all_processes(trainer, self._images), of_all_processes(trainer, self._verdicts)
        if trainer.is_global_zero:
            report_operating_point(trainer, pl_module, images, said)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say where it is, and leave."""
        say_where(trainer, pl_module, stage)
        super().teardown(trainer, pl_module, stage)


def report_operating_point(
    trainer: Trainer, pl_module: LightningModule, images: Sequence[ImageRecord], said: Sequence[Verdict]
) -> None:
    """Write, and print unless the test is quiet, what the model's threshold does, if it has one.

    Args:
        trainer: The trainer of the test.
        pl_module: The model.
        images: The test images.
        said: The verdict on each.
    """
    if trainer.barebones or all(verdict.alarm is None for verdict in said):
        return
    point = operating_point(images, said, getattr(pl_module, "post_processor", None))
    write_operating_point(point, folder_of_heat_maps(trainer, pl_module))
    if trainer.test_loop.verbose:
        print_operating_point(point)


def say_where(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
    """Say, as the last line of a test that is not quiet, where it has written.

    Args:
        trainer: The trainer, after the run.
        pl_module: The model.
        stage: Of the run.
    """
    folder = folder_of_heat_maps(trainer, pl_module)
    if stage == "test" and trainer.test_loop.verbose and trainer.is_global_zero and folder.is_dir():
        say(f"Heat maps and tables of the test: {folder}")


def folder_of_heat_maps(trainer: Trainer, pl_module: LightningModule) -> Path:
    """Say where anomalib's visualizer writes, or would write.

    Args:
        trainer: The trainer of a run.
        pl_module: The model.

    Returns:
        The folder, which may not be there yet.
    """
    visualizer: Any = getattr(pl_module, "visualizer", None)
    return Path(getattr(visualizer, "output_dir", None) or Path(trainer.default_root_dir) / "images")
