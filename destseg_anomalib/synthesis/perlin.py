# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A batch of Perlin masks in one pass.

Perlin noise is linear in its gradients: with the fade weights of the lattice points written as a matrix for each axis,
the noise of an image is a product of three matrices, and a batch of images is a batched product. The masks follow the
official DeSTSeg code (DRAEM's noise: lattice of 2^0 to 2^5 cells an axis, rotation by up to 90°, threshold 0.5).
"""

import math
from functools import lru_cache

import torch

from .rotation import rotate

SCALES = 6  # lattices of 2**0 .. 2**5 cells
LATTICE = 2 ** (SCALES - 1) + 1
THRESHOLD = 0.5
ANGLES = 2**20


@lru_cache(maxsize=8)
def _axis_table(pixels: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `W` and offsets times weights `D` of every pixel and lattice point of one axis, for all scales.

    Returns:
        Two float32 tensors (SCALES, pixels, LATTICE) on `device`.
    """
    # Kept for every later call, whose default dtype may be another, so none is left to the default.
    cells = 2.0 ** torch.arange(SCALES, dtype=torch.float32)
    positions = torch.arange(pixels, dtype=torch.float32) * cells[:, None] / pixels
    offset = positions[..., None] - torch.arange(LATTICE, dtype=torch.float32)
    distance = offset.abs().clamp(max=1)
    fade = distance**3 * (distance * (6 * distance - 15) + 10)
    weight = 1 - fade
    return weight.to(device), (offset * weight).to(device)


@lru_cache(maxsize=8)
def _angle_table(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A list of directions in [0, 2π), and where in it those of the first lattice are.

    A noise has a thousand directions, which follow each other in a list of a million that each device is sent once:
    they would be all but a hundredth of what a step copies to a GPU whose images are there already.
    """
    angles = 2 * math.pi * torch.rand(ANGLES, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    places = torch.arange(LATTICE**2, dtype=torch.int32)
    return angles.to(device), places.view(LATTICE, LATTICE).to(device)


def draw_noise(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw what makes a noise: the scale of both axes, the gradients' angles, the rotation.

    Args:
        count: How many images.
        generator: CPU generator to draw from.

    Returns:
        Scales (count, 2), int32 exponents in 0..5; lattices (count,), int32 places in a list of angles; degrees
        (count,), float32 in [-90, 90); all on the CPU, so that a seed gives the same masks on every device.
    """
    scales = torch.randint(SCALES, (count, 2), generator=generator, dtype=torch.int32)
    lattices = torch.randint(ANGLES - LATTICE**2 + 1, (count,), generator=generator, dtype=torch.int32)
    degrees = 180 * torch.rand(count, generator=generator, dtype=torch.float32) - 90
    return scales, lattices, degrees


def lattice_angles(lattices: torch.Tensor) -> torch.Tensor:
    """Look up the directions (N, LATTICE, LATTICE), radians, float32, of lattices (N,) as `draw_noise` names them."""
    angles, places = _angle_table(lattices.device)
    return angles[lattices.view(-1, 1, 1) + places]


def perlin_noise(scales: torch.Tensor, angles: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    r"""Evaluate Perlin noise :math:`\sqrt2\,[(D_y\cos\Theta) W_x^T + (W_y\sin\Theta) D_x^T]`.

    Args:
        scales: Exponents (N, 2) of the number of lattice cells along height and width, int32.
        angles: Directions (N, LATTICE, LATTICE) of the gradients, radians, float32.
        size: Height and width in pixels.

    Returns:
        Noise (N, 1, *size), float32, about [-1, 1], on the device of `angles`.
    """
    weights_y, slopes_y = (table[scales[:, 0]] for table in _axis_table(size[0], angles.device))
    weights_x, slopes_x = (table[scales[:, 1]] for table in _axis_table(size[1], angles.device))
    left = torch.cat([slopes_y @ angles.cos(), weights_y @ angles.sin()], dim=2)
    right = torch.cat([weights_x, slopes_x], dim=2)
    return math.sqrt(2) * (left @ right.transpose(1, 2)).unsqueeze(1)


def perlin_masks(
    count: int, size: tuple[int, int], generator: torch.Generator, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw binary masks of synthetic anomalies.

    About 5 % of the area is set on average, and about one mask in twenty is empty.

    Args:
        count: How many masks.
        size: Height and width in pixels.
        generator: CPU generator; the same state gives the same masks on every device.
        device: Where the masks are made.

    Returns:
        Masks (count, 1, *size), float32, 0 or 1.
    """
    scales, lattices, degrees = (t.to(device, non_blocking=True) for t in draw_noise(count, generator))
    return rotate(perlin_noise(scales, lattice_angles(lattices), size), degrees, fill=0.0).gt_(THRESHOLD)
