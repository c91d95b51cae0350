# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The hooks around the steps of a training, each of them short: the work is done in the files beside this one."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.data import Batch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.utils.data import DataLoader

from destseg_anomalib.data.reading import DataCheck, check_folder, data_of
from destseg_anomalib.metrics.raw_batch import empty
from destseg_anomalib.synthesis import AnomalyGenerator
from destseg_anomalib.training.acceptance import (
    check_finite,
    check_scores,
    check_validation,
    tested_on_training_images,
)
from destseg_anomalib.training.averaging import WeightAverage, agree, begin_average
from destseg_anomalib.training.checkpoints import LastCheckpoint
from destseg_anomalib.training.divergence import FiniteLoss
from destseg_anomalib.training.images import TrainingImages
from destseg_anomalib.training.loading import CheckedLoading
from destseg_anomalib.training.loans import Loans
from destseg_anomalib.training.preparation import phase_loader, prepare_trainer, prepare_training
from destseg_anomalib.training.restoring import restore, say_what_is_missing, store
from destseg_anomalib.training.run_folder import drop_empty_run, say_what_is_left

logger = logging.getLogger(__name__)


class ResumableTraining(CheckedLoading):
    """Mixin for an anomalib model that trains in two steps: prepared, watched, stored, and gone on with.

    It knows when something happens, and what a training keeps beside weights; what is done then, the functions that it
    calls know. The model has `position`, which tells phases, and `configure_network`, which makes its networks of its
    hyper-parameters. It reads `average_weights`, `backbone_weights`, `cache_images`, `image_size`, `opacity`,
    `pre_trained`, `rotation`, `student_steps`, `segmentation_steps`, `textures`, `top_t` and those that `architecture`
    names.
    """

    architecture: ClassVar[tuple[str, ...]]
    """Hyper-parameters of the networks: a training can only go on with those that it began with."""

    trainer: Trainer
    device: torch.device
    position: Any
    hparams: Any
    post_processor: Any
    evaluator: Any

    seed: int = 0
    """Everything random in a training follows from it."""

    image_digests: torch.Tensor = torch.empty(0, dtype=torch.int64)
    """What the model was trained on, as `contents.image_digests`; empty if that is not known."""

    progress: tuple[int, int] = (0, 0)
    """Steps that it was trained for, and how many of them the student was to have."""

    teacher_ready: bool = False
    """Whether the teacher has its weights, from a file or a checkpoint."""

    resumed_from: Path | None = None
    """The checkpoint that the training under way began with."""

    sound: torch.Tensor
    """Whether all scores of the validation under way are finite; on the model's device."""

    average: WeightAverage | None = None
    """What the segmentation network was on average, in a training."""

    average_so_far: tuple[dict[str, torch.Tensor], int] = ({}, 0)
    """The average in the checkpoint that a training goes on from, and how many steps it is of."""

    images: TrainingImages | None = None
    generator: AnomalyGenerator | None = None
    loans: Loans
    losses: FiniteLoss

    def configure_callbacks(self) -> list[Callback]:
        """Add a check of the data, a checkpoint to resume from, and order in what belongs to others."""
        guests = [*super().configure_callbacks(), DataCheck(), LastCheckpoint()]  # type: ignore[misc]
        self.loans = Loans(guests)
        return [*guests, self.loans]

    def prepare_data(self) -> None:
        """Look at the names of images and masks before the data module joins them."""
        super().prepare_data()  # type: ignore[misc]
        check_folder(data_of(self.trainer))

    def setup(self, stage: str) -> None:
        """Prepare the trainer."""
        super().setup(stage)  # type: ignore[misc]
        prepare_trainer(self, self.trainer, stage)
        if stage == "fit":
            # Given, or set by the user for everything, or random: the first process decides for all.
            given = self.hparams.seed
            self.seed = self.trainer.strategy.broadcast(torch.initial_seed() % 2**63 if given is None else given)
            self.loans.on_return(lambda: drop_empty_run(self.trainer))
            self.losses = FiniteLoss()
            self.average_so_far = {}, 0

    def on_fit_start(self) -> None:
        """Prepare the training, and have what is left undone at its end said, however it ends."""
        super().on_fit_start()  # type: ignore[misc]
        prepare_training(self, self.trainer)
        average = begin_average(self)
        self.loans.lend(self, "average", average)
        if average is not None:
            self.loans.on_return(average.serve)
        self.loans.on_return(lambda: say_what_is_missing(self))

    def train_dataloader(self) -> DataLoader[Any]:
        """Serve the phase at hand as one epoch."""
        return phase_loader(self, self.trainer)

    def on_before_backward(self, loss: torch.Tensor) -> None:
        """End a training that diverges, before it changes a weight."""
        super().on_before_backward(loss)  # type: ignore[misc]
        step = self.trainer.global_step
        self.losses.watch(loss, step, self.position(step)[0], self.trainer.strategy)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Take a step, and in phase 2 its outcome into the average."""
        super().optimizer_step(*args, **kwargs)  # type: ignore[misc]
        phase, _ = self.position(self.trainer.global_step)
        if phase and self.average is not None:
            self.average.update()

    def on_validation_start(self) -> None:
        """End a training that diverged in its last step; validate the average, and learn thresholds from that alone."""
        super().on_validation_start()  # type: ignore[misc]
        check_finite(self)
        if self.average is not None:
            agree(self.average)
            self.average.serve()
        self.sound = torch.ones((), dtype=torch.bool, device=self.device)
        empty(self.post_processor)  # an interrupted validation left it half full

    def on_validation_end(self) -> None:
        """Go on where the training was."""
        super().on_validation_end()  # type: ignore[misc]
        if self.average is not None:
            self.average.learn()

    def on_test_start(self) -> None:
        """Say it if the test can only flatter, and measure nothing of an interrupted one."""
        super().on_test_start()  # type: ignore[misc]
        empty(self.evaluator)
        if (note := tested_on_training_images(self.image_digests, self.trainer)) is not None:
            logger.warning(note)

    def on_validation_epoch_end(self) -> None:
        """End a training whose weights are finite, and far too large to predict anything."""
        super().on_validation_epoch_end()  # type: ignore[misc]
        check_validation(self)

    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict maps and scores, but judge no part by a score that is no number."""
        predicted: Any = super().predict_step(batch, *args, **kwargs)  # type: ignore[misc]
        check_scores(predicted)
        return predicted

    def teardown(self, stage: str) -> None:
        """Say what a training has left, and where."""
        super().teardown(stage)  # type: ignore[misc]
        if stage == "fit":
            say_what_is_left(self.trainer, self.progress)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the course of the training depends on, and see to it that the file can be read."""
        check_finite(self)
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        store(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what decides a prediction, or goes on with a training, or refuse the checkpoint."""
        restore(checkpoint, self, super().on_load_checkpoint)  # type: ignore[misc]
