# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Rotations of training images: the three classes of categories that the official DeSTSeg code distinguishes."""

import math
from typing import Literal

import torch
from torch.nn import functional

Rotation = Literal["none", "slight", "full"]

SLIGHT_DEGREES = 5.0
FILL = 114 / 255  # the grey that fills the corners

_CATEGORIES: dict[Rotation, tuple[str, ...]] = {
    "none": ("capsule", "metal_nut", "pill", "toothbrush", "transistor"),
    "slight": ("cable", "wood", "zipper"),
    "full": ("bottle", "carpet", "grid", "hazelnut", "leather", "screw", "tile"),
}


def rotation_of_category(category: str) -> Rotation:
    """Look up how the papers rotate the training images of an MVTec AD category; others are not rotated.

    Example:
        >>> rotation_of_category("bottle")
        'full'
    """
    return next((rotation for rotation, names in _CATEGORIES.items() if category in names), "none")


def draw_angles(rotation: Rotation, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the angle of each image.

    Args:
        rotation: `none`; `slight`, uniform in ±5°; `full`, a quarter turn of four, and ±5° on top.
        count: How many angles.
        generator: CPU generator to draw from.

    Returns:
        Float32 tensor (count,), degrees, on the CPU.
    """
    if rotation == "none":
        return torch.zeros(count)
    angles = SLIGHT_DEGREES * (2 * torch.rand(count, generator=generator) - 1)
    if rotation == "full":
        angles += 90 * torch.randint(4, (count,), generator=generator)
    return angles


def rotate(images: torch.Tensor, degrees: torch.Tensor, fill: float = FILL) -> torch.Tensor:
    """Rotate every image about its centre by its own angle, bilinear, in one resampling.

    Args:
        images: Images (N, C, H, W), float.
        degrees: Angles (N,), float32, counter-clockwise, on the device of the images.
        fill: Value of the pixels that come from outside.

    Returns:
        Images of the same shape.
    """
    height, width = images.shape[-2:]
    radians = degrees * (math.pi / 180)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # affine_grid works in a square of [-1, 1]: the ratio keeps angles right where height and width differ.
    rows = [torch.stack([cos, -sin * (height / width), zero], 1), torch.stack([sin * (width / height), cos, zero], 1)]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    # Zero padding around values shifted by the fill is padding with the fill.
    shifted = functional.grid_sample(images - fill, grid.to(images.dtype), mode="bilinear", align_corners=False)
    return shifted + fill
