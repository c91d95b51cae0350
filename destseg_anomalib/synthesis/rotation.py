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
        return torch.zeros(count, dtype=torch.float32)
    angles = SLIGHT_DEGREES * (2 * torch.rand(count, generator=generator, dtype=torch.float32) - 1)
    if rotation == "full":
        angles += 90 * torch.randint(4, (count,), generator=generator)
    return angles


def margin_of(rotation: Rotation, side: int) -> int:
    """How much of an image around a square a rotation brings into it.

    Args:
        rotation: As above; a quarter turn brings nothing in.
        side: Of the square, in pixels.

    Returns:
        Pixels on each side, with one for the interpolation.

    Example:
        >>> margin_of("none", 256), margin_of("slight", 256)
        (0, 12)
    """
    if rotation == "none":
        return 0
    angle = math.radians(SLIGHT_DEGREES)
    return math.ceil(side / 2 * (math.cos(angle) + math.sin(angle) - 1)) + 1


def rotate(images: torch.Tensor, degrees: torch.Tensor, fill: float = FILL) -> torch.Tensor:
    """Rotate every image about its centre by its own angle, bilinear, in one resampling.

    Args:
        images: Images (N, C, H, W), float.
        degrees: Angles (N,), float32, counter-clockwise, on the device of the images.
        fill: Value of the pixels that come from outside.

    Returns:
        Images of the same shape.
    """
    grid = _sampling_grid(degrees, images.shape[-2], images.shape[-1]).to(images.dtype)
    if fill == 0:
        return functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    # Zero padding around values shifted by the fill is padding with the fill.
    shifted = functional.grid_sample(images - fill, grid, mode="bilinear", align_corners=False)
    return shifted + fill


def _sampling_grid(degrees: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where each pixel of the rotated images comes from: (N, height, width, 2), x and y in [-1, 1].

    This is `affine_grid` without its matrix product, which takes ten times as long and which autocast would round to
    the nearest half pixel or so.
    """
    radians = (degrees * (math.pi / 180)).view(-1, 1, 1)
    cos, sin = radians.cos(), radians.sin()
    x = (2 * torch.arange(width, device=degrees.device, dtype=torch.float32) + 1) / width - 1
    y = (2 * torch.arange(height, device=degrees.device, dtype=torch.float32)[:, None] + 1) / height - 1
    # Both axes reach from -1 to 1: the ratio keeps angles right where height and width differ.
    from_x = cos * x - sin * (height / width) * y
    from_y = sin * (width / height) * x + cos * y
    return torch.view_as_real(torch.complex(from_x, from_y))  # interleaves the two in one pass
