# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What is refused, each in one sentence: checkpoints that would run code or do not fit, transforms, sets of images."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import Trainer
from torch import nn
from torchvision.transforms.v2 import Normalize

from destseg_anomalib.data.reading import data_of
from destseg_anomalib.training.contents import PLAIN_TYPES, image_digests, same
from destseg_anomalib.training.divergence import diverged

VERSION = version("destseg-anomalib")


def check_file(path: str | Path) -> None:
    """Refuse a file that is no checkpoint, at the cost of reading its table of contents.

    Args:
        path: Where it is.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, is no checkpoint of Lightning's, or would run code.
    """
    if not Path(path).is_file():
        msg = f"The checkpoint {path} does not exist or is a folder: give the path of a .ckpt file."
        raise FileNotFoundError(msg)
    try:
        with anomalib_safe_globals(extra=PLAIN_TYPES):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # tensors stay on the disk
    except Exception as error:  # zipfile, pickle and torch each raise their own kind
        msg = (
            f"{path} is damaged, is no checkpoint, or holds more than weights and plain data, and was not loaded: give "
            "a .ckpt file that training wrote."
        )
        raise ValueError(msg) from error
    if not (isinstance(checkpoint, dict) and {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys()):
        msg = f"{path} holds no model that Lightning stored: give a .ckpt file that training wrote."
        raise ValueError(msg)


def check_model(checkpoint: Mapping[str, Any], model: Any) -> None:  # noqa: ANN401  both models have its attributes
    """Refuse a checkpoint of another model.

    Args:
        checkpoint: A checkpoint of Lightning's.
        model: The Lightning model that is to take it, with `architecture`, the names of the arguments of its networks.

    Raises:
        ValueError: If the checkpoint lacks one of these.
    """
    missing = [name for name in model.architecture if name not in checkpoint.get("hyper_parameters", {})]
    if missing:
        msg = (
            f"The checkpoint is not one of {type(model).__name__}, which would have stored {missing[0]!r}: choose its "
            "own model."
        )
        raise ValueError(msg)


def check_architecture(checkpoint: Mapping[str, Any], model: Any) -> None:  # noqa: ANN401
    """Refuse to go on with the training of other networks.

    Args:
        checkpoint: A checkpoint of the same model.
        model: The Lightning model that is to be trained further.

    Raises:
        ValueError: If the networks of the checkpoint were built with other arguments.
    """
    stored, name_of_model = checkpoint["hyper_parameters"], type(model).__name__
    for name in model.architecture:
        if not same(stored[name], model.hparams[name]):
            msg = (
                f"The training that is to go on began with {name}={stored[name]!r}, but {name_of_model} was built with "
                f"{name}={model.hparams[name]!r}: pass --model.{name} {stored[name]}."
            )
            raise ValueError(msg)


def check_weights(checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse a checkpoint whose weights are not those of a model, or are no numbers.

    Args:
        checkpoint: A checkpoint of Lightning's.
        model: The Lightning model that is to take its weights.

    Raises:
        ValueError: If weights are missing, unknown or of another shape, or if any is NaN or infinite.
    """
    # Thresholds of the post-processor are NaN until they are known; only the network's own numbers must be finite.
    stored = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith("model.")}
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (stored, wanted)]
    unfit = sorted(name for name in stored.keys() | wanted.keys() if shapes[0].get(name) != shapes[1].get(name))
    if unfit:
        writer = checkpoint.get("training", {}).get("version", "0.1.0")
        msg = (
            f"The checkpoint of destseg-anomalib {writer} holds another network than the {type(model).__name__} of "
            f"destseg-anomalib {VERSION}: {len(unfit)} tensors differ (first: {unfit[0]}); use the version that wrote "
            "it, or train anew."
        )
        raise ValueError(msg)
    broken = not_finite(stored)
    if broken:
        msg = (
            f"The checkpoint holds NaN or infinite weights in {len(broken)} of {len(stored)} tensors (first: "
            f"{broken[0]}), since its training diverged or the file is damaged: use an earlier checkpoint."
        )
        raise ValueError(msg)


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the tensors that hold NaN or infinite numbers."""
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    # No finite sum holds such a number, and it takes one pass; that of huge numbers can be infinite without any.
    return [name for name, value in floats.items() if not (value.sum().isfinite() or value.isfinite().all())]


def check_finite(model: Any) -> None:  # noqa: ANN401
    """Refuse to store, or to learn thresholds from, a model whose training has diverged.

    Args:
        model: The Lightning model; looked at in its training only.

    Raises:
        FloatingPointError: If a loss or a weight is NaN or infinite.
    """
    if model.trainer.state.fn != "fit":
        return
    model.losses.settle()
    if broken := not_finite(model.model.state_dict()):
        step = model.trainer.global_step - 1
        raise FloatingPointError(diverged(step, model.position(step)[0], f"Weights ({broken[0]}) became"))


def check_validation(model: Any) -> None:  # noqa: ANN401
    """Refuse what a validation in a training has found, on all devices if one of them met a score that is no number.

    Args:
        model: The Lightning model, with `sound`.

    Raises:
        FloatingPointError: If a score was NaN or infinite.
    """
    trainer = model.trainer
    if trainer.state.fn == "fit" and trainer.strategy.reduce(model.sound.float(), reduce_op="mean") < 1:
        step = max(trainer.global_step - 1, 0)
        raise FloatingPointError(diverged(step, model.position(step)[0], "Scores of the validation became"))


def check_scores(predicted: Any) -> None:  # noqa: ANN401
    """Refuse scores that anomalib's post-processor would take for those of good parts.

    Args:
        predicted: Batch with `pred_score` (N,).

    Raises:
        ValueError: If one is NaN.
    """
    if predicted.pred_score.isnan().any():
        msg = (
            f"The score of an image among {', '.join(predicted.image_path or ['those given'])} is NaN: predict with "
            "--trainer.precision 32-true, or use another checkpoint."
        )
        raise ValueError(msg)


def check_transforms(model: Any, datamodule: object, *, trained: bool) -> None:  # noqa: ANN401
    """Refuse transforms that would spoil what the model sees, or that its checkpoint could not bring back.

    Args:
        model: The Lightning model.
        datamodule: Its data; None if there is no data module.
        trained: Whether it is about to be trained. The pre-processor of a trained model is what it learned with.

    Raises:
        ValueError: If something normalises images, which the model does itself, or a checkpoint cannot hold the
            transform of the pre-processor.
    """
    places = ("train_augmentations", "val_augmentations", "test_augmentations")
    used = {f"the data module's {place}": getattr(datamodule, place, None) for place in places}
    transform = model.pre_processor.transform if model.pre_processor and trained else None
    for place, steps in {"the pre-processor": transform, **used}.items():
        if any(isinstance(step, Normalize) for step in _steps_of(steps)):
            msg = (
                f"Images would be normalised twice, by Normalize in {place} and by {type(model).__name__} itself: take "
                "Normalize out of there."
            )
            raise ValueError(msg)
    if transform is not None and model.pre_processor.checkpoint_config()["transform"] is None:
        msg = (
            f"A checkpoint cannot hold {type(transform).__name__} of the pre-processor, and would predict without it: "
            "put it into the augmentations of the data, or use transforms of torchvision that anomalib can store."
        )
        raise ValueError(msg)


def _steps_of(transform: Any) -> Iterator[Any]:  # noqa: ANN401
    """A transform and, if it is made of others, all of these."""
    yield transform
    for step in getattr(transform, "transforms", ()):
        yield from _steps_of(step)


def check_split(datamodule: AnomalibDataModule, trainer: Trainer) -> None:
    """Refuse processes that have split their data each in another way.

    Args:
        datamodule: The data of this process.
        trainer: The trainer, of one or several devices.

    Raises:
        ValueError: In all processes, if one trains on other images than the first.
    """
    if trainer.world_size == 1:
        return
    splits: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(splits, image_digests(datamodule, "train"))
    if not all(torch.equal(split, splits[0]) for split in splits):
        msg = (
            f"Each of {trainer.world_size} processes has split {datamodule.name} at random in another way, so that one "
            "would be tested on what another has trained on: set data.seed, or give training and test folders of "
            "their own."
        )
        raise ValueError(msg)


def check_images(before: torch.Tensor, datamodule: AnomalibDataModule) -> str | None:
    """Compare the images that a training began with to those that it is to go on with.

    Args:
        before: The `image_digests` of the checkpoint; empty if it has none.
        datamodule: Data that has been set up.

    Returns:
        What has changed, in a few words; None if nothing has.

    Raises:
        ValueError: If images that the training has seen are now there to validate or test it.
    """
    now = image_digests(datamodule, "train")
    if not len(before) or torch.equal(now, before):
        return None
    held_out = image_digests(datamodule, "val", "test")
    leaked = torch.isin(before, held_out[~torch.isin(held_out, now)]).sum()
    if leaked:
        msg = (
            f"{leaked} of the {len(before)} images that this training began with are now set aside to test it, since "
            f"{datamodule.name} is split at random anew at each start: train anew with data.seed set, or with folders "
            "of their own for training and test."
        )
        raise ValueError(msg)
    return f"{(~torch.isin(now, before)).sum()} new and {(~torch.isin(before, now)).sum()} missing training images"


def tested_on_training_images(before: torch.Tensor, trainer: Trainer) -> str | None:
    """Say it if a model is about to be tested on images that it was trained on.

    Args:
        before: The `image_digests` of its training; empty if they are not known.
        trainer: The trainer that tests it.

    Returns:
        A sentence, or None.
    """
    datamodule = data_of(trainer)
    if datamodule is None or not hasattr(datamodule, "test_data"):
        return None
    tested = image_digests(datamodule, "test")
    seen = int(torch.isin(tested, before).sum())
    if not seen:
        return None
    return (
        f"{seen} of the {len(tested)} test images were trained on, which makes the figures too good: give "
        f"{datamodule.name} folders of their own for training and test, or set data.seed if it is split at random."
    )
