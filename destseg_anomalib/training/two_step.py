# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Training in two phases, student first and segmentation network second, as one Lightning optimisation.

The phase is a function of the global step and of nothing else: a resumed training is in the right one. The parameters
of the other phase have no gradient, and SGD leaves such parameters, their momentum and their weight decay alone.
"""

import logging
import math
import time
from typing import Any, ClassVar

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.optim import SGD

from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.training.arguments import check
from destseg_anomalib.training.contents import plain
from destseg_anomalib.training.quiet import hush_replacements
from destseg_anomalib.training.seeds import mixed_seed
from destseg_anomalib.transforms import RoundedBilinearResize

logger = logging.getLogger(__name__)

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
LOGGED_AFTER = 0.5
"""Seconds between losses that are logged for a progress bar alone: to log them takes half as long as all else that
Lightning does around a step, and a bar that shows them waits for a GPU."""


class TwoStepTraining:
    """Mixin for an anomalib model whose `model` has a teacher, a student and perhaps a segmentation network.

    It knows phases, steps, losses and the optimiser, and reads the hyper-parameters `student_steps`,
    `segmentation_steps`, `student_lr`, `segmentation_lr`, `head_lr` and `focal_gamma`. It knows neither files nor data
    sets: what comes before, between and after the steps is the business of `ResumableTraining`, its neighbour.
    """

    reference_batch: ClassVar[int]
    """Batch size that the published student learning rate belongs to."""

    model: Any
    trainer: Trainer
    hparams: Any
    generator: Any
    seed: int
    sound: torch.Tensor

    logged: float = -math.inf
    """When losses were logged last, in seconds of the monotonic clock."""

    def check_arguments(self) -> None:
        """Refuse hyper-parameters that cannot train, as `arguments.check` says."""
        self.hparams.update(plain(dict(self.hparams)))  # numbers of NumPy among them
        check(self.hparams)

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Make the default pre-processor: the papers' resize; normalisation is the torch model's own.

        Args:
            image_size: Height and width in pixels; None for the paper's 256 x 256.

        Returns:
            Pre-processor whose transform anomalib also applies in its datasets, to masks at their original size.
        """
        return PreProcessor(transform=RoundedBilinearResize((256, 256) if image_size is None else image_size))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Make the default evaluator, which follows the papers' protocol."""
        return RawMapEvaluator()

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training."""
        segmentation_steps = self.hparams.segmentation_steps if self.model.segmentation is not None else 0
        return int(self.hparams.student_steps + segmentation_steps)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Length of the training, and one validation at its very end, which the last checkpoint needs."""
        hush_replacements()  # anomalib reads this and tells of every value
        return {
            "max_steps": self.total_steps,
            "check_val_every_n_epoch": None,
            "val_check_interval": self.total_steps,
            "num_sanity_val_steps": 0,
            "reload_dataloaders_every_n_epochs": 1,
        }

    @property
    def learning_type(self) -> LearningType:
        """Only normal images are needed to train."""
        return LearningType.ONE_CLASS

    def configure_optimizers(self) -> SGD:
        """One SGD over three groups: student, residual blocks and head of the segmentation network."""
        groups = [{"params": self.model.student.parameters(), "lr": self.hparams.student_lr}]
        if self.model.segmentation is not None:
            groups += [
                {"params": self.model.segmentation.residual.parameters(), "lr": self.hparams.segmentation_lr},
                {"params": self.model.segmentation.head.parameters(), "lr": self.hparams.head_lr},
            ]
        return SGD(groups, lr=self.hparams.student_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def position(self, step: int) -> tuple[int, int]:
        """Say which phase a step is in, 0 or 1, and how many steps of the phase come before it."""
        phase = int(step >= self.hparams.student_steps and self.model.segmentation is not None)
        return phase, step - phase * self.hparams.student_steps

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Synthesise anomalies on the batch and train the network whose phase it is.

        Args:
            batch: Batch with `image` (N, 3, H, W), float32, in [0, 1].
            *args: Not used.
            **kwargs: Not used.

        Returns:
            Scalar loss of the phase.

        Raises:
            ValueError: If the batch has a single image, whose pooled features cannot be batch-normalised.
        """
        del args, kwargs
        images = batch.image
        if len(images) < 2:
            msg = "A training batch of 1 image cannot be batch-normalised: use train_batch_size=2 or more."
            raise ValueError(msg)
        synthetic = self.generator(images, self._step_generator())
        student_phase = self._enter_phase()
        if student_phase:
            # A sum over the batch at a learning rate made for `reference_batch` images: keep the step per image.
            share = self.reference_batch / len(images)
            losses = {"student_loss": share * self.model.student_loss(synthetic.clean, synthetic.corrupted)}
        else:
            terms = self.model.segmentation_losses(synthetic.corrupted, synthetic.mask, self.hparams.focal_gamma)
            losses = {f"{name}_loss": term for name, term in terms.items()}
        self._log({"phase": 1.0 if student_phase else 2.0} | {name: loss.detach() for name, loss in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict maps and scores for anomalib's post-processor, which learns thresholds and ranges from them."""
        del args, kwargs
        prediction = self.model(batch.image)
        self.sound &= prediction.pred_score.isfinite().all()
        return self._looked_at(batch.update(**prediction._asdict()))

    def test_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict maps and scores."""
        return self._looked_at(super().test_step(batch, *args, **kwargs))  # type: ignore[misc]

    def _looked_at(self, batch: Any) -> Any:  # noqa: ANN401
        """Leave out of the ground truth what the model is not to look at."""
        if self.model.regions is not None and batch.gt_mask is not None:
            batch.gt_mask = self.model.regions(batch.gt_mask)
        return batch

    def on_train_epoch_start(self) -> None:
        """Show the first losses of a phase at once."""
        super().on_train_epoch_start()  # type: ignore[misc]
        self.logged = -math.inf

    def _log(self, values: dict[str, Any]) -> None:
        """Hand values to loggers and progress bar, as often as they are looked at."""
        now, every = time.monotonic(), self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if now - self.logged > LOGGED_AFTER or (every and (self.trainer.global_step + 1) % every == 0):
            self.logged = now
            self.log_dict(values, prog_bar=True)  # type: ignore[attr-defined]

    def _enter_phase(self) -> bool:
        """Put the network that learns into training mode and the other one into evaluation; True in the first phase."""
        step = self.trainer.global_step
        student_phase = step < self.hparams.student_steps
        self.model.student.train(student_phase)
        if self.model.segmentation is not None:
            self.model.segmentation.train(not student_phase)
        if step in {0, self.hparams.student_steps}:
            name = "1, the student" if student_phase else "2, the segmentation network"
            logger.info("Step %d of %d: training phase %s.", step, self.total_steps, name)
        return student_phase

    def _step_generator(self) -> torch.Generator:
        """Random numbers of this batch on this device: a function of seed, device rank and batch number."""
        seed = mixed_seed(self.seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx)
        return torch.Generator().manual_seed(seed)
