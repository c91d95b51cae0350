# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""One score of a part from its anomaly map, such that a part is bad exactly if its score reaches the threshold.

A part is bad at a threshold t if a region of its map at or above t, corners included, has at least `min_area` pixels.
Its score is therefore the highest t at which it is bad: with ``min_area=1`` the highest pixel.
"""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812


def part_scores(anomaly_maps: torch.Tensor, min_area: int = 1) -> torch.Tensor:
    """Score the parts of a batch, exactly.

    Args:
        anomaly_maps: Float32 ``(N, 1, H, W)`` or ``(N, H, W)``, any range, without NaN if `min_area` is above 1.
        min_area: Pixels of the map that a defect has at least, from 1 to H W.

    Returns:
        Float32 ``(N,)`` on the device of the maps, each of them the value of a pixel.

    Raises:
        ValueError: If a map has fewer pixels than `min_area`.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[9.0, 1.0, 1.0], [1.0, 3.0, 1.0], [1.0, 1.0, 5.0]]])
        >>> [part_scores(maps, area).item() for area in (1, 2, 3, 4)]
        [9.0, 3.0, 3.0, 1.0]
    """
    height, width = anomaly_maps.shape[-2:]
    if min_area > height * width:
        msg = f"min_area={min_area} is more than all {height} x {width} pixels of a map: no part could be bad."
        raise ValueError(msg)
    if min_area == 1:
        return anomaly_maps.flatten(1).amax(1)
    maps = anomaly_maps.detach().cpu().reshape(-1, height, width).contiguous().numpy()
    return torch.from_numpy(np.array([_highest(one, min_area) for one in maps], np.float32)).to(anomaly_maps.device)


def _highest(anomaly_map: NDArray[np.float32], area: int) -> np.float32:
    """Highest pixel value at which a region of an area, above 1, exists, by halving the values that come into question.

    A square of that area that lies at or above a value is such a region, and of fewer pixels there is none.
    """
    flat, side = anomaly_map.reshape(-1), math.isqrt(area - 1) + 1
    highest = np.partition(flat, flat.size - area)[flat.size - area]
    lowest = flat.min()
    if side <= min(anomaly_map.shape):
        # A square that begins at each pixel; at the far borders it would be cut off.
        squares = cv2.erode(anomaly_map, np.ones((side, side), np.uint8), anchor=(0, 0))
        lowest = squares[: squares.shape[0] - side + 1, : squares.shape[1] - side + 1].max()
    if lowest == highest:
        return highest
    left, top, width, height = cv2.boundingRect((anomaly_map >= lowest).view(np.uint8))
    crop = np.ascontiguousarray(anomaly_map[top : top + height, left : left + width])
    values = np.sort(crop[(crop >= lowest) & (crop <= highest)])
    low, high = 0, values.size  # it holds at `low`, and not at `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if has_region(crop >= values[middle], area) else (low, middle)
    return values[low]


def has_region(mask: NDArray[np.bool_], area: int) -> bool:
    """Tell whether a mask has a region, corners included, of at least an area.

    Args:
        mask: Boolean ``(H, W)``.
        area: In pixels.

    Returns:
        Whether it has.
    """
    # Without OpenCV's statistics, which take longer than the labels and are of the background, too.
    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return bool((np.bincount(labels[mask], minlength=1) >= area).any())


def has_region_in_graph(masks: torch.Tensor, area: int) -> torch.Tensor:
    """Do the same with nothing but tensor operations, as an exported graph must.

    The highest of all pixels' numbers is handed on from neighbour to neighbour, ``area - 1`` times. A region of fewer
    pixels then bears one number, on fewer than `area` pixels; in a larger one, its highest number is on at least `area`
    pixels, since each step gains one.

    Args:
        masks: Boolean ``(N, H, W)``; H W is at most 2^24, so that float32 tells the pixels apart.
        area: In pixels, at least 2.

    Returns:
        Boolean ``(N,)``.
    """
    inside = masks.float().unsqueeze(1)
    labels = inside.flatten(1).cumsum(1).view_as(inside) * inside
    for _ in range(area - 1):
        labels = F.max_pool2d(labels, 3, stride=1, padding=1) * inside
    ordered = labels.flatten(1).sort(1).values
    first, last = ordered[:, : 1 - area], ordered[:, area - 1 :]
    return ((first == last) & (first > 0)).any(1)
