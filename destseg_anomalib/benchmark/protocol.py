# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The papers' evaluation for any model of anomalib, and the knobs that bundled models lack."""

import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.models
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from anomalib.pre_processing import PreProcessor
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torchvision.transforms.v2 import CenterCrop, Compose, Resize, Transform

import destseg_anomalib.data
import destseg_anomalib.models  # noqa: F401
from destseg_anomalib.benchmark.pretrained import OFFLINE, pretrained_from
from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.transforms import RoundedBilinearResize

TEXTURE_ARGUMENTS = ("textures", "dtd_dir", "anomaly_source_path")  # what our models, Draem and GLASS call the folder
DTD_FOLDER = "./datasets/dtd"  # where anomalib keeps that set, and models that find none fetch it


def apply(model: AnomalibModule, image_size: tuple[int, int] | None = None) -> None:
    """Give a model the papers' evaluation, and nothing that would cost time beside it.

    Masks are reduced by `RoundedBilinearResize`, from their original size, and figures come from raw maps by
    `RawMapEvaluator`. The label of an image is the data module's, which is that of the original mask: a defect that
    the reduction loses still counts. Whatever else the model's transform does, such as to normalise, it goes on doing.
    The model draws no heat maps.

    Args:
        model: Any model of anomalib; changed in place.
        image_size: Height and width in pixels at which the model sees images; None for the model's own.

    Raises:
        ValueError: If the model resizes images to no fixed height and width, or crops them after an `image_size`.

    Example:
        >>> from anomalib.models import Patchcore
        >>> model = Patchcore(backbone="resnet18", pre_trained=False)
        >>> apply(model, (128, 160))
        >>> [type(step).__name__ for step in model.pre_processor.transform.transforms]
        ['RoundedBilinearResize', 'Normalize']
        >>> tuple(model.input_size)
        (128, 160)
    """
    transform = model.pre_processor.transform if model.pre_processor else None
    model.pre_processor = PreProcessor(transform=_with_rounded_masks(transform, image_size, model.name))
    model.evaluator = RawMapEvaluator()
    model.visualizer = None


def _with_rounded_masks(transform: Transform | None, image_size: tuple[int, int] | None, model: str) -> Transform:
    """Replace the first resize of a transform; it is this one that anomalib also applies to masks."""
    steps = list(transform.transforms) if isinstance(transform, Compose) else [transform] if transform else []
    place = next((index for index, step in enumerate(steps) if isinstance(step, Resize)), None)
    if image_size is not None and any(isinstance(step, CenterCrop) for step in steps):
        msg = f"{model} crops images after it has resized them: leave image_size out of the protocol for it."
        raise ValueError(msg)
    size = image_size or (None if place is None else steps[place].size)
    if size is None or len(size) != 2:
        msg = f"{model} resizes images to no fixed height and width: give the protocol an image_size, as [256, 256]."
        raise ValueError(msg)
    resize = RoundedBilinearResize(size)
    steps = [resize, *steps] if place is None else [*steps[:place], resize, *steps[place + 1 :]]
    return resize if len(steps) == 1 else Compose(steps)


def build_model(spec: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> AnomalibModule:
    """Build the model of a job, with the protocol applied.

    Args:
        spec: `class_path` and `init_args` as in anomalib's configurations. `backbone_weights`: file of pretrained
            weights, or `offline` for those of the extra. `textures`: folder of anomaly sources, or `dtd`. The last two
            reach every model that has a use for them, whatever it calls them.
        image_size: Height and width in pixels at which the model sees images; None for the model's own.

    Returns:
        The model.

    Raises:
        ValueError: If the entry does not fit the model.
        FileNotFoundError: If the weights or the textures do not exist.

    Example:
        >>> build_model({"class_path": "Patchcore", "init_args": {"backbone": "resnet18", "pre_trained": False}}).name
        'Patchcore'
    """
    cls = find_class(AnomalibModule, spec["class_path"])
    init_args, weights = _shared_arguments(cls, spec)
    with pretrained_from(weights):
        model: AnomalibModule = _instantiate(cls, init_args)
    apply(model, image_size)
    return model


def _shared_arguments(cls: type, spec: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Translate weights and textures into arguments of the model; what it cannot take are weights of its backbone."""
    arguments = dict(spec.get("init_args", {}))
    weights, textures = spec.get("backbone_weights"), spec.get("textures")
    parameters = inspect.signature(cls).parameters
    if weights is not None and "backbone_weights" in parameters:
        arguments |= {} if weights == OFFLINE else {"backbone_weights": weights}  # the extra they find themselves
        weights = None
    if textures is not None:
        name = next((name for name in TEXTURE_ARGUMENTS if name in parameters), None)
        if name is None:
            msg = f"{cls.__name__} uses no anomaly sources: remove textures={textures} from its entry."
            raise ValueError(msg)
        if name != "textures" and textures == "dtd":
            textures = DTD_FOLDER
        elif name != "textures" and not Path(textures).is_dir():  # a bundled model would download 600 MB into it
            msg = f"textures={textures} is not a folder: name a folder of pictures, or dtd to fetch that set."
            raise FileNotFoundError(msg)
        arguments[name] = textures
    return arguments, weights


def build_datamodule(spec: Mapping[str, Any]) -> AnomalibDataModule:
    """Build the data module of a job.

    Args:
        spec: `class_path` and `init_args` as in anomalib's configurations.

    Returns:
        The data module.

    Raises:
        ValueError: If there is no such class or it does not take these arguments.

    Example:
        >>> build_datamodule({"class_path": "DemoSurfaces", "init_args": {"category": "gravel"}}).category
        'gravel'
    """
    return _instantiate(find_class(AnomalibDataModule, spec["class_path"]), spec.get("init_args", {}))


def find_class(base: type, class_path: str) -> type:
    """Find a model or a data module.

    Args:
        base: `AnomalibModule` or `AnomalibDataModule`.
        class_path: Name in `anomalib.models` or `anomalib.data`, or import path.

    Returns:
        The class.

    Raises:
        ValueError: If there is no such class.

    Example:
        >>> find_class(AnomalibModule, "DeSTSeg")
        <class 'destseg_anomalib.models.destseg.lightning_model.DeSTSeg'>
    """
    home = anomalib.models if base is AnomalibModule else anomalib.data
    try:
        found = pkgutil.resolve_name(class_path if "." in class_path else f"{home.__name__}.{class_path}")
    except (ImportError, AttributeError, ValueError):
        found = None
    if not isinstance(found, type) or not issubclass(found, base):
        msg = f"{home.__name__} has no {base.__name__} {class_path}: check the spelling, or give an import path."
        raise ValueError(msg)
    return found


def parse_arguments(cls: type, init_args: Mapping[str, Any]) -> tuple[ArgumentParser, Namespace]:
    """Check the arguments of a class, as anomalib's command line would, without making an object.

    Args:
        cls: The class.
        init_args: Its arguments.

    Returns:
        A parser, and what its `instantiate_classes` turns into an object.

    Raises:
        ValueError: If the class does not take these arguments.

    Example:
        >>> from destseg_anomalib.data import DemoSurfaces
        >>> parser, config = parse_arguments(DemoSurfaces, {"category": "grass"})
        >>> parser.instantiate_classes(config).object.category
        'grass'
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "object", fail_untyped=False)
    try:
        return parser, parser.parse_object({"object": dict(init_args)})
    except ArgumentError as error:
        msg = f"{cls.__name__} does not take these init_args: {str(error).replace('object.', '')}"
        raise ValueError(msg) from error


def _instantiate(cls: type, init_args: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an object of the class
    parser, config = parse_arguments(cls, init_args)
    return parser.instantiate_classes(config).object
