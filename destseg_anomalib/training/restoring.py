# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What goes from a model into its checkpoint, and what of it comes back: into a training that goes on, or a prediction.

The command line builds a model with its own arguments before anybody has read the checkpoint. Whatever a prediction
depends on is the checkpoint's all the same; what somebody gave that contradicts it is named once.
"""

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus

from destseg_anomalib.data.reading import data_of
from destseg_anomalib.deployment import OperatingPoint
from destseg_anomalib.deployment.stored_point import restore_point
from destseg_anomalib.training.acceptance import (
    VERSION,
    check_architecture,
    check_images,
    check_model,
    check_weights,
)
from destseg_anomalib.training.averaging import put_average, take_average
from destseg_anomalib.training.checkpoints import batch_layout, forget_time, rest_between_steps, warn_of_changes
from destseg_anomalib.training.contents import make_plain, same
from destseg_anomalib.transforms import RoundedBilinearResize

logger = logging.getLogger(__name__)

DECISIVE = ("image_size", "crop_size", "tile", "top_t")  # for a prediction, beside the arguments of the networks


def store(checkpoint: dict[str, Any], model: Any) -> None:  # noqa: ANN401  both models have its attributes
    """Add what the course of a training depends on, and make the whole readable.

    Args:
        checkpoint: A checkpoint of Lightning's, changed in place.
        model: The Lightning model.
    """
    checkpoint["training"] = {
        "seed": model.seed,
        "batches": batch_layout(model.trainer),
        "version": VERSION,
        "images": model.image_digests,
        "progress": _progress(model) if model.trainer.state.fn is TrainerFn.FITTING else model.progress,
        "post_processor": type(model.post_processor).__name__,
    }
    checkpoint["state_dict"] = _renamed(checkpoint["state_dict"], compiled=False)
    if model.trainer.state.fn is TrainerFn.FITTING and model.trainer.global_step >= model.total_steps:
        for state in checkpoint.get("optimizer_states", []):
            state["state"] = {}  # momentum, half of the file: what has ended needs none
    put_average(checkpoint, model.average)
    make_plain(checkpoint)


def restore(checkpoint: dict[str, Any], model: Any, load_components: Callable[[dict[str, Any]], None]) -> None:  # noqa: ANN401
    """Take from a checkpoint what the model is about to need, or refuse it.

    Args:
        checkpoint: A checkpoint of Lightning's, whose weights are read next.
        model: The Lightning model, with a trainer or without.
        load_components: Lets anomalib restore pre- and post-processor.

    Raises:
        ValueError: If the checkpoint is of another model, or does not fit a training that is to go on.
    """
    trainer: Trainer | None = model._trainer
    fitting = trainer is not None and trainer.state.fn is TrainerFn.FITTING
    if trainer is not None and not fitting and _ends_a_training(model, trainer):
        logger.warning("The weights that the training ended with are tested, not those of %s.", trainer.ckpt_path)
        checkpoint["state_dict"] = model.state_dict()
        checkpoint["callbacks"] = {}  # one of them, the post-processor, would bring the thresholds of that file back
        trainer.ckpt_path = model.resumed_from = None  # and Lightning does not say otherwise
        return
    for name, before in (("distance_weight", 0.0), ("regions", None)):  # as before there were such arguments
        checkpoint.get("hyper_parameters", {}).setdefault(name, before)
    check_model(checkpoint, model)
    (check_architecture if fitting else follow)(checkpoint, model)
    model.average_so_far = take_average(checkpoint) if fitting else ({}, 0)
    checkpoint["state_dict"] = _renamed(checkpoint["state_dict"], compiled=hasattr(model.model, "_orig_mod"))
    check_weights(checkpoint, model)
    _load_components(checkpoint, model, load_components)
    training = checkpoint.get("training", {})
    of_older_versions = checkpoint.get("global_step", 0), checkpoint["hyper_parameters"]["student_steps"]
    model.progress = tuple(training.get("progress", of_older_versions))
    model.teacher_ready = True
    model.seed = training.get("seed", model.seed)
    model.image_digests = training.get("images", torch.empty(0, dtype=torch.int64))
    datamodule = None if trainer is None else data_of(trainer)
    if trainer is not None and datamodule is not None:
        # Its data sets were given the transform that the model had before the checkpoint was read.
        datamodule.setup(trainer.state.fn)
    if trainer is not None and fitting:
        _go_on(checkpoint, model, trainer)
        return
    for note in notes(model, checkpoint["state_dict"]):
        logger.warning(note)


def _renamed(state: Mapping[str, torch.Tensor], *, compiled: bool) -> dict[str, torch.Tensor]:
    """Name tensors as networks do, or as `torch.compile` renames those in the wrapper that it returns."""
    prefix = "model._orig_mod." if compiled else "model."
    return {re.sub(r"^model\.(_orig_mod\.)?", prefix, name): value for name, value in state.items()}


def _ends_a_training(model: Any, trainer: Trainer) -> bool:  # noqa: ANN401
    """Tell the test with which `anomalib train --ckpt_path X` ends: nobody wants the figures of X.

    The engine hands one and the same object to training and test there; where somebody asks for a test of X, it makes
    another one.
    """
    return model.resumed_from is not None and trainer.ckpt_path is model.resumed_from


def _load_components(checkpoint: dict[str, Any], model: Any, load: Callable[[dict[str, Any]], None]) -> None:  # noqa: ANN401
    """Let anomalib restore pre- and post-processor, and see to what it leaves half done.

    Raises:
        ValueError: If the checkpoint has a post-processor, with thresholds, and the model none.
    """
    names, trainer = ("pre_processor", "post_processor", "evaluator", "visualizer"), model._trainer
    if model.post_processor is None and any(name.startswith("post_processor.") for name in checkpoint["state_dict"]):
        msg = (
            f"The checkpoint has thresholds, for which {type(model).__name__} was given no place: leave out "
            "post_processor=False, or give a post-processor."
        )
        raise ValueError(msg)
    restore_point(model, checkpoint.get("anomalib_post_processor_config"))
    before = {name: getattr(model, name) for name in names}
    load(checkpoint)
    # What the checkpoint's model did without is gone from this one, but still a callback of the trainer.
    dropped = [
        component for name, component in before.items() if component is not None and getattr(model, name) is None
    ]
    if trainer is not None:
        trainer.callbacks = [c for c in trainer.callbacks if not any(c is component for component in dropped)]
    kind, other = (type(model.post_processor).__name__, checkpoint.get("training", {}).get("post_processor"))
    if model.post_processor is not None and other not in {None, kind}:
        logger.warning(
            "The checkpoint was made with %s, but %s has %s, which judges otherwise: pass post_processor=%s.",
            other,
            type(model).__name__,
            kind,
            other,
        )
    _align_size(model)


def _align_size(model: Any) -> None:  # noqa: ANN401
    """Let `image_size` say what the checkpoint's resize does."""
    resize, wished = getattr(model.pre_processor, "transform", None), model.hparams.image_size
    if isinstance(resize, RoundedBilinearResize) and not same(resize.size, wished):
        model.hparams.image_size = tuple(resize.size)
        if not same(wished, inspect.signature(type(model)).parameters["image_size"].default):
            logger.warning(
                "Images are brought to the size of the checkpoint, %s, and not to %s.", tuple(resize.size), wished
            )


def _go_on(checkpoint: dict[str, Any], model: Any, trainer: Trainer) -> None:  # noqa: ANN401
    """Set a checkpoint to its place in the training, and say what is not as it was."""
    model.resumed_from = trainer.ckpt_path
    datamodule = data_of(trainer)
    images = None if datamodule is None else check_images(model.image_digests, datamodule)
    warn_of_changes(checkpoint, dict(model.hparams), batch_layout(trainer), images)
    forget_time(checkpoint)
    rest_between_steps(checkpoint, trainer, *model.position(checkpoint["global_step"]))


def follow(checkpoint: Mapping[str, Any], model: Any) -> None:  # noqa: ANN401
    """Take the arguments of a checkpoint that decide predictions, and build the networks anew where they differ.

    Args:
        checkpoint: A checkpoint of the same model.
        model: The Lightning model, before it reads the weights.
    """
    contradictions = [*_contradicting_arguments(checkpoint, model), *_contradicting_components(checkpoint, model)]
    stored = checkpoint["hyper_parameters"]
    names = [name for name in (*model.architecture, *DECISIVE) if name in stored]
    if any(not same(model.hparams[name], stored[name]) for name in names):
        model.hparams.update({name: stored[name] for name in names})
        model.model = model.configure_network().to(model.device)
    if contradictions:
        logger.warning(
            "The checkpoint decides what %s predicts, and not what was given beside it: %s.",
            type(model).__name__,
            ", ".join(contradictions),
        )


def _contradicting_arguments(checkpoint: Mapping[str, Any], model: Any) -> Iterator[str]:  # noqa: ANN401
    """Arguments that are neither the checkpoint's nor the default, so that somebody must have given them."""
    stored, parameters = checkpoint["hyper_parameters"], inspect.signature(type(model)).parameters
    for name in (*model.architecture, *DECISIVE):
        given = model.hparams[name]
        if name in stored and not same(given, stored[name]) and not same(given, parameters[name].default):
            yield f"{name}={given!r} (the checkpoint has {stored[name]!r})"


def _contradicting_components(checkpoint: Mapping[str, Any], model: Any) -> Iterator[str]:  # noqa: ANN401
    """The same of what anomalib stores of pre- and post-processor."""
    defaults = {
        "anomalib_pre_processor_config": lambda: model.configure_pre_processor(model.hparams.image_size),
        "anomalib_post_processor_config": model.configure_post_processor,
    }
    for key, component in model._checkpointable_components().items():
        stored = checkpoint.get(key)
        if not stored or not hasattr(component, "checkpoint_config") or isinstance(component, OperatingPoint):
            continue  # an operating point can be moved: of it, what was given counts
        given, default = component.checkpoint_config(), defaults[key]().checkpoint_config()
        for name in given.keys() & stored.keys():
            if not same(given[name], stored[name]) and not same(given[name], default.get(name)):
                part = key.removeprefix("anomalib_").removesuffix("_config")
                yield f"{part}.{name}={given[name]!r} (the checkpoint has {stored[name]!r})"


def notes(model: Any, state: Mapping[str, torch.Tensor]) -> Iterator[str]:  # noqa: ANN401
    """Say what a model lacks for its predictions to mean something.

    Args:
        model: The Lightning model.
        state: Its state dict, or the one that it is about to read.

    Yields:
        A sentence, if its segmentation network was never trained, or else if its thresholds are not set.
    """
    steps, student_steps = model.progress
    if model.model.segmentation is not None and steps <= student_steps:
        yield (
            f"The training ended in phase 1, after {steps} of {student_steps} steps: the segmentation network is "
            "untrained and its maps mean nothing, so go on from a checkpoint of it, or train anew."
        )
        return
    if any(name.startswith("post_processor.learned.") and value.numel() for name, value in state.items()):
        return  # from which an operating point is set, or says itself why not
    thresholds = [value for name, value in state.items() if name.endswith(("_image_threshold", "_pixel_threshold"))]
    if thresholds and all(value.isnan().all() for value in thresholds):
        yield (
            "No validation has set thresholds: scores and maps are raw and no part is judged, so train to the end, "
            "with images to validate on and without limit_val_batches=0."
        )


def say_what_is_missing(model: Any) -> None:  # noqa: ANN401
    """Note the end of a training, and warn of what it has left undone, unless it was a trial run or a preview.

    Args:
        model: The Lightning model.
    """
    model.progress = _progress(model)
    interrupted = model.trainer.state.status is TrainerStatus.INTERRUPTED  # which leaves thresholds to what goes on
    if model.trainer.global_step and not model.trainer.fast_dev_run:
        for note in notes(model, {} if interrupted else model.state_dict()):
            logger.warning(note)


def _progress(model: Any) -> tuple[int, int]:  # noqa: ANN401
    return model.trainer.global_step, model.hparams.student_steps
