# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Pretrained weights from a file, for models that can only name a backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import timm
from torch import nn

from destseg_anomalib.models.teacher import OFFLINE_BACKBONE, Teacher

OFFLINE = "offline"
"""Stands for the weights of the extra `offline` where a file could be named."""


@contextmanager
def pretrained_from(weights: str | None) -> Iterator[None]:
    """While a model is built, give these weights to every timm backbone that it wants pretrained; fetch nothing.

    anomalib's feature extractors take the name of a backbone and no file. `DeSTSeg`'s teacher loads files, so the
    weights pass through one: a bundled model sees exactly the features that our models see.

    Args:
        weights: File with the backbone's state dict, `offline` for the weights of the extra, or None for what anomalib
            does by itself.

    Yields:
        Nothing.

    Raises:
        ValueError: If the weights do not fit a backbone, or no backbone was wanted pretrained.
        FileNotFoundError: If the file does not exist.

    Example:
        >>> from anomalib.models import Stfpm
        >>> with pretrained_from("trunk.safetensors"):
        ...     Stfpm(backbone="resnet18")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: backbone_weights=trunk.safetensors does not exist: ...
    """
    if weights is None:
        yield
        return
    create, filled = timm.create_model, []

    def create_model(model_name: str, *args: Any, pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: ANN401
        network: nn.Module = create(model_name, *args, pretrained=False, **options)
        if pretrained:
            _fill(network, model_name, weights)
            filled.append(model_name)
        return network

    with mock.patch.object(timm, "create_model", create_model):
        yield
    if not filled:
        msg = f"backbone_weights={weights} were not used, as the model wants no pretrained timm backbone: remove them."
        raise ValueError(msg)


def _fill(network: nn.Module, backbone: str, weights: str) -> None:
    """Load the weights that a teacher with this backbone would have."""
    if weights == OFFLINE and backbone.split(".", maxsplit=1)[0] != OFFLINE_BACKBONE:
        msg = f"backbone_weights=offline are those of {OFFLINE_BACKBONE}: use this backbone instead of {backbone}."
        raise ValueError(msg)
    teacher = Teacher(backbone)
    teacher.load_pretrained(None if weights == OFFLINE else weights)
    missing = network.load_state_dict(teacher.backbone.state_dict(), strict=False).missing_keys
    if missing:
        msg = (
            f"backbone_weights reach down to stride 16, but the model also reads {missing[0]} of {backbone}: "
            "give it layers up to that stride."
        )
        raise ValueError(msg)
