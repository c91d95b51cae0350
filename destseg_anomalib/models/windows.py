# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How far layers look that average over a whole map: in networks that are trained on crops, no further than a crop.

A mean over a whole picture is another number than the means over crops that the layers behind it were trained on: what
a defect adds to the mean of a crop is diluted by all that is far from it. So each place gets the mean over a window of
the size of a crop around it, or of the nearest one at the border (Chu et al., "Improving Image Restoration by
Revisiting Global Information Aggregation", ECCV 2022, Sec. 3.2).
"""

import torch
from torch import nn
from torch.nn import functional

from .tiles import starts

ROWS, COLUMNS = 2, 3  # the axes of maps (N, C, H, W)
WINDOWS = 4  # that a pixel lies in, along each axis; values between their middles are interpolated


class Windowed(nn.Module):
    """A layer that averages over maps.

    Attributes:
        window: Height and width in pixels of the windows that it averages over; None for the whole maps.
    """

    window: int | None = None


def look_no_further(module: nn.Module, side: int | None) -> None:
    """Have all layers of a module that average do so over windows, in place.

    Args:
        module: Whose layers see maps of one resolution.
        side: Height and width of a window in pixels of these maps; None for the whole maps.
    """
    for layer in module.modules():
        if isinstance(layer, Windowed):
            layer.window = side


def means_along(maps: torch.Tensor, side: int | None, axis: int, parts: int = 1) -> torch.Tensor:
    """Mean of maps over windows that lie evenly along an axis, from one border to the other.

    Args:
        maps: (N, C, H, W).
        side: Length of a window in pixels; None for one window.
        axis: `ROWS` or `COLUMNS`.
        parts: 2 for a mean of each half of a window, which share a pixel where it has an odd number.

    Returns:
        The same with a value a window, or a part of one, along the axis.
    """
    length = maps.shape[axis]
    side = min(side or length, length)
    part = -(-side // parts)
    if parts == 1 and side == length:
        return maps.mean(axis, keepdim=True)
    windows = starts(length, side, max(side // WINDOWS, 1))
    first = [start + skipped for start in windows for skipped in (0, side - part)[:parts]]
    return torch.cat([maps.narrow(axis, start, part).mean(axis, keepdim=True) for start in first], axis)


def window_means(maps: torch.Tensor, side: int | None) -> torch.Tensor:
    """Mean of maps over windows that lie evenly along both axes.

    Args:
        maps: (N, C, H, W).
        side: Height and width of a window in pixels; None for one window.

    Returns:
        (N, C, h, w), a value a window: 1 x 1 where the maps are no larger than one.

    Example:
        >>> window_means(torch.arange(8.0).expand(1, 1, 4, 8), side=4)[0, 0]
        tensor([[1.5000, 2.5000, 3.5000, 4.5000, 5.5000]])
    """
    if side is None or max(maps.shape[-2:]) <= side:
        return maps.mean(dim=(-2, -1), keepdim=True)
    return means_along(means_along(maps, side, ROWS), side, COLUMNS)


def quarter_means(maps: torch.Tensor, side: int | None) -> torch.Tensor:
    """Mean of maps over the quarters of windows, (N, C, 2 h, 2 w); else as `window_means`."""
    height, width = maps.shape[-2:]
    if side is not None and max(height, width) > side:
        return means_along(means_along(maps, side, ROWS, parts=2), side, COLUMNS, parts=2)
    if height % 2 == 0 and width % 2 == 0:
        return functional.avg_pool2d(maps, (height // 2, width // 2))
    return functional.adaptive_avg_pool2d(maps, 2)


def spread_along(values: torch.Tensor, length: int, side: int | None, axis: int) -> torch.Tensor:
    """Give every pixel along an axis a value between those of the windows whose middles it lies between.

    Args:
        values: (N, C, h, w), a value a window.
        length: Pixels along the axis.
        side: Length of a window in pixels.
        axis: `ROWS` or `COLUMNS`.

    Returns:
        The same with `length` values along the axis, where from each border to the middle of the first window all are
        the same; or with the only one, to be broadcast.
    """
    if side is None or values.shape[axis] == 1:
        return values
    size = [length - side + 1 if other == axis else values.shape[other] for other in (ROWS, COLUMNS)]
    between = functional.interpolate(values, size, mode="bilinear", align_corners=True)
    beyond = (side - 1) // 2, side // 2
    padded = functional.pad(between, (*beyond, 0, 0) if axis == COLUMNS else (0, 0, *beyond), mode="replicate")
    return padded.to(values.dtype)  # autocast on a CPU interpolates in float32


def spread(values: torch.Tensor, size: torch.Size, side: int | None) -> torch.Tensor:
    """Spread values a window (N, C, h, w) over maps of a size (H, W), as `spread_along` does along each axis."""
    return spread_along(spread_along(values, size[0], side, ROWS), size[1], side, COLUMNS)
