# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Judging a large picture tile by tile, without a seam."""

from collections.abc import Callable, Iterator

import torch

OVERLAP = 0.25  # of a tile's side, shared with each neighbour
BATCH = 8  # tiles at once


def tiled(predict: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, side: int) -> torch.Tensor:
    """Put the map of images together from those of overlapping tiles.

    Where tiles overlap the map is a mean of theirs, with weights that fall towards the edges of each: no pixel hangs on
    the border of a tile, and what all tiles say alike is said by the whole, up to the border of the picture.

    Args:
        predict: Makes maps (n, 1, h, w) of tiles (n, 3, h, w).
        images: (N, 3, H, W).
        side: Of a tile in pixels; smaller images are one tile.

    Returns:
        Float32 map (N, 1, H, W).
    """
    height, width = images.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    if (tall, wide) == (height, width):
        return predict(images).float()
    places = [(top, left) for top in _starts(height, tall) for left in _starts(width, wide)]
    weight = _ramp(tall, images.device)[:, None] * _ramp(wide, images.device)
    total = images.new_zeros((len(images), 1, height, width), dtype=torch.float32)
    weights = torch.zeros_like(total[:1])
    together = max(BATCH // len(images), 1)
    for first in range(0, len(places), together):
        some = places[first : first + together]
        tiles = torch.cat([images[..., top : top + tall, left : left + wide] for top, left in some])
        for (top, left), part in zip(some, predict(tiles).float().split(len(images)), strict=True):
            total[..., top : top + tall, left : left + wide] += weight * part
            weights[..., top : top + tall, left : left + wide] += weight
    return total / weights


def _starts(length: int, side: int) -> Iterator[int]:
    """Where tiles begin, evenly from one end to the other."""
    stride = max(int(side * (1 - OVERLAP)), 1)
    steps = -(-(length - side) // stride)
    for step in range(steps + 1):
        yield round(step * (length - side) / max(steps, 1))


def _ramp(side: int, device: torch.device) -> torch.Tensor:
    """Weights along a tile: 1 in its middle, falling to nearly 0 over what it shares with a neighbour."""
    from_edge = torch.arange(side, device=device, dtype=torch.float32) + 0.5
    return (torch.minimum(from_edge, side - from_edge) / max(side * OVERLAP, 1)).clamp(max=1)
