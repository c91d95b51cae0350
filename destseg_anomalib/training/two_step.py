# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Training in two phases, student first and segmentation network second, as one Lightning optimisation.

The phase is a function of the global step and of nothing else: a resumed training is in the right one. The parameters
of the other phase have no gradient, and SGD leaves such parameters, their momentum and their weight decay alone.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.metrics import Evaluator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.optim import SGD
from torch.utils.data import DataLoader

from destseg_anomalib.data.reading import check_data
from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.synthesis import AnomalyGenerator, rotation_of_category, texture_bank
from destseg_anomalib.training.acceptance import VERSION, check_architecture, check_file, check_weights
from destseg_anomalib.training.batches import StepSampler, mixed_seed, training_images, training_loader
from destseg_anomalib.training.checkpoints import (
    LastCheckpoint,
    batch_layout,
    rest_between_steps,
    use_checkpoint_files,
    warn_of_changes,
)
from destseg_anomalib.transforms import RoundedBilinearResize

logger = logging.getLogger(__name__)

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4


class TwoStepTraining:
    """Mixin for an anomalib model whose `model` has a teacher, a student and perhaps a segmentation network.

    It reads the hyper-parameters `student_steps`, `segmentation_steps`, `student_lr`, `segmentation_lr`, `head_lr`,
    `focal_gamma`, `rotation`, `textures`, `opacity`, `image_size`, `cache_images`, `pre_trained` and
    `backbone_weights` of the model it is mixed into.
    """

    reference_batch: ClassVar[int]
    """Batch size that the published student learning rate belongs to."""

    architecture: ClassVar[tuple[str, ...]]
    """Hyper-parameters that a checkpoint must share with the model that loads it."""

    model: Any
    trainer: Trainer
    _trainer: Trainer | None
    hparams: Any
    generator: AnomalyGenerator
    _teacher_ready: bool = False
    _seed: int = 0
    _resumed_from: Any = None

    def check_arguments(self) -> None:
        """Refuse hyper-parameters that cannot train.

        Raises:
            ValueError: If a number of steps is below 1.
        """
        for name in ("student_steps", "segmentation_steps"):
            if self.hparams[name] < 1:
                msg = f"{name}={self.hparams[name]} must be at least 1; segmentation=False trains the student alone."
                raise ValueError(msg)

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Make the default pre-processor: the papers' resize; normalisation is the torch model's own.

        Args:
            image_size: Height and width in pixels; None for the paper's 256 x 256.

        Returns:
            Pre-processor whose transform anomalib also applies in its datasets, to masks at their original size.
        """
        return PreProcessor(transform=RoundedBilinearResize(image_size or (256, 256)))

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

    def configure_callbacks(self) -> list[Callback]:
        """Keep a checkpoint to resume from, beside what anomalib's components do."""
        return [*super().configure_callbacks(), LastCheckpoint()]  # type: ignore[misc]

    def setup(self, stage: str) -> None:
        """Prepare the trainer: its checkpoint files, and a strategy that bears networks without gradients."""
        super().setup(stage)  # type: ignore[misc]
        check_data(self.trainer, stage)
        use_checkpoint_files(self.trainer)
        if stage != "fit":
            return
        # The seed that the user set for everything, or a random one: the first process decides for all.
        self._seed = self.trainer.strategy.broadcast(torch.initial_seed() % 2**63)
        if isinstance(self.trainer.strategy, DDPStrategy):
            # In each phase the other network has no gradient; zeros instead would let weight decay change it.
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def on_fit_start(self) -> None:
        """Get what only training needs: the teacher's weights, anomaly sources, and the images in long epochs.

        By now a checkpoint has been read: its transform says how large images are, and its teacher needs no weights.
        """
        super().on_fit_start()  # type: ignore[misc]
        if self.hparams.pre_trained and not self._teacher_ready:
            self.model.teacher.load_pretrained(self.hparams.backbone_weights)
        self._teacher_ready = True
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.generator = AnomalyGenerator(
            texture_bank(self.hparams.textures, self._training_size()),
            opacity=tuple(self.hparams.opacity),
            rotation=self._rotation(datamodule),
        )
        if isinstance(datamodule, AnomalibDataModule):
            self._serve_phases(datamodule)

    def _serve_phases(self, datamodule: AnomalibDataModule) -> None:
        """Make each phase one epoch, whose loader has exactly the batches of the phase.

        Progress bars, losses and loader workers then start anew with the phase, not with every pass through the images.
        """
        images = training_images(datamodule, devices=self.trainer.world_size, cache=self.hparams.cache_images)

        def loader() -> DataLoader[torch.Tensor]:
            phase, done = self._position(self.trainer.global_step)
            steps = self.hparams.segmentation_steps if phase else self.hparams.student_steps
            step = self.trainer.accumulate_grad_batches  # in batches
            devices = {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
            epoch = {"batch_size": datamodule.train_batch_size, "batches": steps * step, "start": done * step}
            sampler = StepSampler(images, **epoch, **devices, seed=self._seed + phase)
            return training_loader(images, sampler, datamodule.num_workers)

        datamodule.train_dataloader = loader
        if self.trainer.limit_train_batches == 1.0:
            self.trainer.fit_loop.max_epochs = 1 if self.model.segmentation is None else 2

    def _position(self, step: int) -> tuple[int, int]:
        """Say which phase a step is in, 0 or 1, and how many steps of the phase come before it."""
        phase = int(step >= self.hparams.student_steps and self.model.segmentation is not None)
        return phase, step - phase * self.hparams.student_steps

    def teardown(self, stage: str) -> None:
        """Give the data module its own training loader back."""
        super().teardown(stage)  # type: ignore[misc]
        if stage == "fit" and self.trainer.datamodule is not None:  # type: ignore[attr-defined]
            vars(self.trainer.datamodule).pop("train_dataloader", None)  # type: ignore[attr-defined]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Make a model from a checkpoint, as Lightning does, after a look at the file."""
        check_file(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[misc]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed, and what else the course of the training depends on."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint["training"] = {"seed": self._seed, "batches": batch_layout(self.trainer), "version": VERSION}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the checkpoint's transform, also into the data sets, its seed, and its place in the training.

        Raises:
            ValueError: If the checkpoint is of another model or architecture.
        """
        check_architecture(checkpoint, self)
        check_weights(checkpoint, self)  # type: ignore[arg-type]
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        self._teacher_ready = True
        self._seed = checkpoint.get("training", {}).get("seed", self._seed)
        if self._trainer is None:
            return
        if isinstance(datamodule := self._trainer.datamodule, AnomalibDataModule):  # type: ignore[attr-defined]
            # Its data sets were given the transform that the model had before the checkpoint was read.
            datamodule.setup(self.trainer.state.fn)
        if self.trainer.state.fn is TrainerFn.FITTING:
            self._resumed_from = self.trainer.ckpt_path
            warn_of_changes(checkpoint, dict(self.hparams), batch_layout(self.trainer))
            rest_between_steps(checkpoint, self.trainer, *self._position(checkpoint["global_step"]))
        elif self._resumed_from is not None and self.trainer.ckpt_path == self._resumed_from:
            # `anomalib train --ckpt_path X` tests X after the training that began with it: nobody wants its figures.
            logger.info("The weights that the training ended with are tested, not those of %s.", self._resumed_from)
            checkpoint["state_dict"] = self.state_dict()  # type: ignore[attr-defined]
            self.trainer.ckpt_path = self._resumed_from = None  # and Lightning does not say otherwise

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
        phase = {"phase": 1.0 if student_phase else 2.0}
        self.log_dict(phase | {k: v.detach() for k, v in losses.items()}, prog_bar=True)  # type: ignore[attr-defined]
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict maps and scores for anomalib's post-processor, which learns thresholds and ranges from them."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

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
        seed = mixed_seed(self._seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx)
        return torch.Generator().manual_seed(seed)

    def _training_size(self) -> tuple[int, int]:
        """Height and width at which images reach the model."""
        height, width = self.input_size or self.hparams.image_size  # type: ignore[attr-defined]
        return int(height), int(width)

    def _rotation(self, datamodule: object) -> Any:  # noqa: ANN401
        """Resolve `rotation="auto"` by the category of an MVTec AD data module."""
        rotation = self.hparams.rotation
        if rotation != "auto":
            return rotation
        is_mvtec = type(datamodule).__name__ == "MVTecAD"
        rotation = rotation_of_category(datamodule.category) if is_mvtec else "none"  # type: ignore[attr-defined]
        logger.info("Training images are rotated as class %r (rotation='auto').", rotation)
        return rotation
