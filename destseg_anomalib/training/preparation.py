# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What comes before the first step: the trainer, the teacher's weights, the images, and what anomalies are made of."""

import logging
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.pre_processing import PreProcessor
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from destseg_anomalib.data.reading import data_of, workers_of
from destseg_anomalib.data.regions import read_regions
from destseg_anomalib.synthesis import AnomalyGenerator, Rotation, TextureBank, rotation_of_category, texture_bank
from destseg_anomalib.synthesis.preview import SHOWN, write_preview
from destseg_anomalib.synthesis.rotation import margin_of
from destseg_anomalib.training.acceptance import check_split, check_transforms
from destseg_anomalib.training.batches import Collate, StepSampler, training_loader
from destseg_anomalib.training.checkpoints import serves_whole_phases, use_checkpoint_files
from destseg_anomalib.training.contents import image_digests
from destseg_anomalib.training.images import Crop, fits, training_images
from destseg_anomalib.training.loans import Loans
from destseg_anomalib.training.progress_bar import show_phases
from destseg_anomalib.training.quiet import hush

logger = logging.getLogger(__name__)


def prepare_trainer(model: Any, trainer: Trainer, stage: str) -> None:  # noqa: ANN401  both models have its attributes
    """Prepare a trainer for a stage: its checkpoint files, and a strategy that bears idle networks.

    Args:
        model: The Lightning model.
        trainer: Its trainer, whose data module has been set up.
        stage: `fit`, `validate`, `test` or `predict`.

    Raises:
        ValueError: If the transforms of the data or of the model cannot be used.
    """
    check_transforms(model, data_of(trainer), trained=stage == "fit")
    use_checkpoint_files(trainer, model.loans)
    use_available_cores(trainer, model.loans)
    hush(model.loans)
    if stage == "fit":
        show_phases(trainer, model, model.loans)
    if stage == "fit" and isinstance(trainer.strategy, DDPStrategy):
        # In each phase the other network has no gradient; zeros instead would let weight decay change it.
        arguments = trainer.strategy._ddp_kwargs | {"find_unused_parameters": True}
        model.loans.lend(trainer.strategy, "_ddp_kwargs", arguments)


def prepare_training(model: Any, trainer: Trainer) -> None:  # noqa: ANN401
    """Get what only training needs: the teacher's weights, the images in long epochs, and anomaly sources.

    By now a checkpoint has been read: its transform says how large images are, and its teacher needs no weights.

    Args:
        model: The Lightning model.
        trainer: Its trainer.

    Raises:
        ValueError: If the trainer has steps of an earlier training behind it.
    """
    if trainer.global_step and trainer.ckpt_path is None:
        msg = (
            f"This trainer has taken {trainer.global_step} steps before and would go on from there, with a model that "
            "has not: make a new Engine for each training, and go on with one by ckpt_path=."
        )
        raise ValueError(msg)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        try_both_phases(model, trainer)
    if model.hparams.pre_trained and not model.teacher_ready:
        model.model.teacher.load_pretrained(model.hparams.backbone_weights)
    model.teacher_ready = True
    datamodule, regions, device = data_of(trainer), model.model.regions, trainer.strategy.root_device
    rotation = resolve_rotation(model.hparams.rotation, datamodule, turns=regions is None)
    crop, size = crop_of(model.hparams.crop_size, rotation, datamodule), model.input_size
    if datamodule is not None:
        check_split(datamodule, trainer)
        images = training_images(
            datamodule, trainer.world_size, cache=model.hparams.cache_images, crop=crop, device=device
        )
        model.image_digests = image_digests(datamodule, "train")
        model.loans.lend(model, "images", images)
        # The model serves its images itself; the data module, which is the user's, stays as it is.
        model.loans.lend(trainer.fit_loop._data_source, "instance", model)
        if serves_whole_phases(trainer):
            model.loans.lend(trainer.fit_loop, "max_epochs", 1 if model.model.segmentation is None else 2)
        if size is None:  # nothing in the pre-processor says it: ask an image
            size = batch_of(datamodule, [images[0]]).shape[-2:]
    if regions is not None and trainer.ckpt_path is None:
        files = () if datamodule is None else datamodule.train_data.samples["image_path"]
        regions.inside.copy_(read_regions(model.hparams.regions, regions.inside.shape, files))
    height, width = (crop.size, crop.size) if crop is not None else size or model.hparams.image_size
    bank = textures_near(texture_bank(model.hparams.textures, (int(height), int(width))), device)
    generator = AnomalyGenerator(bank, tuple(model.hparams.opacity), rotation, model.hparams.crop_size, regions)
    model.loans.lend(model, "generator", generator)
    if crop is not None and model.pre_processor is not None:
        leave_crops_alone(model.pre_processor, model.loans)
    if datamodule is not None:
        show_what_is_taught(model, trainer, datamodule)


def textures_near(bank: TextureBank, device: torch.device) -> TextureBank:
    """Keep textures on the device that trains, where they fit.

    Args:
        bank: The textures, in memory or in a file.
        device: The device.

    Returns:
        A bank of the same textures.
    """
    return TextureBank(bank.textures.to(device)) if fits(bank.textures.nbytes, device) else bank


def crop_of(side: int | None, rotation: Rotation, datamodule: AnomalibDataModule | None) -> Crop | None:
    """Say which part of an image a step sees.

    Args:
        side: Argument of the model.
        rotation: How images are rotated, which takes a margin that is cut off afterwards.
        datamodule: The data.

    Returns:
        The part; None for all of it.

    Raises:
        ValueError: If there is no data module whose images could be cut.
    """
    if side is None:
        return None
    if datamodule is None:
        msg = f"crop_size={side} cuts images of a data module: pass one, or cut them in your train_dataloaders."
        raise ValueError(msg)
    return Crop(side, margin_of(rotation, side))


def leave_crops_alone(pre_processor: PreProcessor, loans: Loans) -> None:
    """Keep a pre-processor from resizing crops of images that it has resized in the data set.

    Args:
        pre_processor: That of the model.
        loans: Gives it its hook back.
    """
    pre_processor.on_train_batch_start = lambda *_, **__: None
    loans.on_return(lambda: vars(pre_processor).pop("on_train_batch_start"))


def batch_of(datamodule: AnomalibDataModule, images: list[torch.Tensor]) -> torch.Tensor:
    """Make of some images what a step would be given.

    Args:
        datamodule: The data.
        images: Images (3, H, W), uint8.

    Returns:
        Images (N, 3, H, W), float32, in [0, 1], on their device.
    """
    batch: ImageBatch = move_data_to_device(Collate(datamodule.external_collate_fn)(images), images[0].device)
    return batch.image


def show_what_is_taught(model: Any, trainer: Trainer, datamodule: AnomalibDataModule) -> None:  # noqa: ANN401
    """Write `synthetic.png`, unless the run is to leave nothing.

    Args:
        model: The Lightning model, with images and generator.
        trainer: Its trainer.
        datamodule: Its data.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run or trainer.barebones:  # type: ignore[attr-defined]
        return
    spread = torch.linspace(0, len(model.images) - 1, min(SHOWN, len(model.images))).round().int().tolist()
    picture = Path(trainer.default_root_dir) / "synthetic.png"
    write_preview(batch_of(datamodule, [model.images[index] for index in spread]), model.generator, model.seed, picture)
    logger.info("What the model is taught, some images with synthetic anomalies, is shown in %s.", picture)


def use_available_cores(trainer: Trainer, loans: Loans) -> None:
    """Start no more workers than there are cores.

    Args:
        trainer: A trainer whose data module, if it has one, has made no loader yet.
        loans: Gives the number back.
    """
    datamodule = data_of(trainer)
    if datamodule is not None:
        loans.lend(datamodule, "num_workers", workers_of(datamodule))


def try_both_phases(model: Any, trainer: Trainer) -> None:  # noqa: ANN401
    """Let a trial run, of one step by default, take its steps in each phase.

    Args:
        model: The Lightning model.
        trainer: Its trainer, with `fast_dev_run`.
    """
    steps = int(trainer.fast_dev_run)  # type: ignore[attr-defined]
    for name in ("student_steps", "segmentation_steps"):
        model.loans.lend(model.hparams, name, steps)
    model.loans.lend(trainer.fit_loop.epoch_loop, "max_steps", model.total_steps)
    model.loans.lend(trainer.fit_loop, "max_epochs", model.total_steps // steps)


def phase_loader(model: Any, trainer: Trainer) -> DataLoader[Any]:  # noqa: ANN401
    """Serve the phase at hand as one epoch, with exactly the batches that it still needs.

    Progress bars, losses and loader workers then start anew with the phase, not with every pass through the images.

    Args:
        model: The Lightning model, after `prepare_training`.
        trainer: Its trainer.

    Returns:
        The loader.

    Raises:
        ValueError: If there are no images.
    """
    datamodule = data_of(trainer)
    if model.images is None or datamodule is None:
        msg = "There is nothing to train on: pass a datamodule of anomalib's, or train_dataloaders."
        raise ValueError(msg)
    phase, done = model.position(trainer.global_step)
    steps = model.hparams.segmentation_steps if phase else model.hparams.student_steps
    step = trainer.accumulate_grad_batches  # in batches
    sampler = StepSampler(
        model.images,
        batch_size=datamodule.train_batch_size,
        batches=steps * step,
        start=done * step,
        num_replicas=trainer.world_size,
        rank=trainer.global_rank,
        seed=model.seed + phase,
    )
    device = trainer.strategy.root_device
    return training_loader(model.images, sampler, datamodule.num_workers, datamodule.external_collate_fn, device)


def resolve_rotation(rotation: str, datamodule: object, *, turns: bool = True) -> Any:  # noqa: ANN401
    """Resolve `rotation="auto"` by the category of an MVTec AD data module.

    Args:
        rotation: Argument of the model.
        datamodule: Its data.
        turns: Whether images may be turned at all.

    Returns:
        The class of rotation; for other data `none`.
    """
    if rotation != "auto":
        return rotation
    is_mvtec = turns and type(datamodule).__name__ == "MVTecAD"
    resolved = rotation_of_category(datamodule.category) if is_mvtec else "none"  # type: ignore[attr-defined]
    logger.info("Training images are rotated as class %r (rotation='auto').", resolved)
    return resolved
