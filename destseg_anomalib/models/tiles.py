# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Judging pictures of any size and number within a bounded memory: large ones tile by tile, without a seam."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn import functional

OVERLAP = 0.125  # of a tile's side, shared with each neighbour
LARGEST, SHARED = 1088, 64  # side of a tile, and what it shares, in pixels, where nothing is said
AT_ONCE = 2**21  # pixels that go through the networks together: 32 pictures of 256 x 256, a tile

Predict = Callable[[torch.Tensor], torch.Tensor]


class Tiling(NamedTuple):
    """How a picture is cut.

    Attributes:
        side: Height and width of a tile in pixels; smaller pictures are one tile.
        stride: How far tiles are apart at most, down and to the right, in pixels.
    """

    side: tuple[int, int]
    stride: tuple[int, int]


def square(side: int) -> Tiling:
    """Cut into squares that overlap by an eighth.

    Example:
        >>> square(512)
        Tiling(side=(512, 512), stride=(448, 448))
    """
    stride = max(int(side * (1 - OVERLAP)), 1)
    return Tiling((side, side), (stride, stride))


def tiled(predict: Predict, images: torch.Tensor, tiling: Tiling | None) -> torch.Tensor:
    """Put the map of images together from those of overlapping tiles.

    Where tiles overlap the map is a mean of theirs, with weights that fall towards the edges of each: no pixel hangs on
    the border of a tile, and what all tiles say alike is said by the whole, up to the border of the picture. No more
    than `AT_ONCE` pixels go through the networks at once, or one tile.

    Args:
        predict: Makes maps (n, 1, h, w) of tiles (n, 3, h, w).
        images: (N, 3, H, W).
        tiling: How they are cut; None for one tile where an image has at most `AT_ONCE` pixels, and for the fewest that
            are at most `LARGEST` a side where it has more.

    Returns:
        Float32 map (N, 1, H, W).
    """
    height, width = images.shape[-2:]
    if tiling is None:
        tiling = _fewest(height, width) if height * width > AT_ONCE else square(max(height, width))
    tall, wide = min(tiling.side[0], height), min(tiling.side[1], width)
    tops, lefts = starts(height, tall, tiling.stride[0]), starts(width, wide, tiling.stride[1])
    if len(tops) == len(lefts) == 1:
        return _in_pieces(predict, images)
    tiles = [images[..., top : top + tall, left : left + wide] for top in tops for left in lefts]
    maps = _in_a_loop(predict, tiles) if torch.compiler.is_exporting() else _in_batches(predict, tiles)
    rows = [maps[first : first + len(lefts)] for first in range(0, len(maps), len(lefts))]
    strips = [_blended(row, lefts, width) for row in rows]
    # Down as to the right: the weights of a tile are a product of one for each axis.
    return _blended([strip.mT for strip in strips], tops, height).mT


def _in_pieces(predict: Predict, images: torch.Tensor) -> torch.Tensor:
    """Make the map of images, of some at once where they are many; an exported graph takes any number."""
    together = max(AT_ONCE // images[0, 0].numel(), 1)
    if torch.compiler.is_exporting() or len(images) <= together:
        return predict(images).float()
    return torch.cat([predict(part).float() for part in images.split(together)])


def _fewest(height: int, width: int) -> Tiling:
    """Cut a large picture into tiles that share no more than they must: what is judged twice takes its time twice."""
    sides = []
    for length in (height, width):
        count = max(-(-(length - SHARED) // (LARGEST - SHARED)), 1)
        sides.append(-(-(length + (count - 1) * SHARED) // count))
    return Tiling((sides[0], sides[1]), (sides[0] - SHARED, sides[1] - SHARED))


def starts(length: int, side: int, stride: int) -> list[int]:
    """Where tiles begin, evenly from one end to the other."""
    steps = -(-(length - side) // stride)
    return [round(step * (length - side) / max(steps, 1)) for step in range(steps + 1)]


def _in_batches(predict: Predict, tiles: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Make a map of each tile, of some at once."""
    count = len(tiles[0])
    together = max(AT_ONCE // tiles[0][:, 0].numel(), 1)
    maps: list[torch.Tensor] = []
    for first in range(0, len(tiles), together):
        maps += _in_pieces(predict, torch.cat([*tiles[first : first + together]])).split(count)
    return maps


def _in_a_loop(predict: Predict, tiles: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Make a map of each tile, in a loop of the exported graph: the networks are in it once, not once a batch."""
    from torch._higher_order_ops.scan import scan  # noqa: PLC0415 - it loads the compiler

    nothing = tiles[0].new_zeros(1)
    _, maps = scan(lambda carry, tile: (carry.clone(), predict(tile).float()), nothing, torch.stack([*tiles]))
    return list(maps.unbind())


def _blended(parts: Sequence[torch.Tensor], starts: Sequence[int], length: int) -> torch.Tensor:
    """Join parts (N, 1, h, w) side by side to a strip (N, 1, h, length)."""
    side = parts[0].shape[-1]
    ends = [length - side - start for start in starts]
    # Over all that two tiles share, which is more than asked for where they are spread evenly: the nearer to its edge,
    # the less a tile knows.
    shared = side - max((after - before for before, after in pairwise(starts)), default=0)
    ramp = _ramp(side, shared, parts[0].device)
    weights = torch.stack([functional.pad(ramp, (start, end)) for start, end in zip(starts, ends, strict=True)])
    weights = weights / weights.sum(dim=0)
    return reduce(
        torch.add,
        (
            functional.pad(part * weight[start : start + side], (start, end))
            for part, weight, start, end in zip(parts, weights, starts, ends, strict=True)
        ),
    )


def _ramp(side: int, overlap: int, device: torch.device) -> torch.Tensor:
    """Weights along a tile: 1 in its middle, falling to nearly 0 over what it shares with a neighbour.

    They fall as 3x² - 2x³ does, flat at both ends: where a tile begins, it changes a map by less than a thousandth of
    what it says otherwise if it shares 32 pixels or more. A straight ramp would by 1 / 64.
    """
    from_edge = torch.arange(side, device=device, dtype=torch.float32) + 0.5
    share = (torch.minimum(from_edge, side - from_edge) / max(overlap, 1)).clamp(max=1)
    return share * share * (3 - 2 * share)
