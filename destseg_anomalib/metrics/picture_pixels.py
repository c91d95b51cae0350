# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""From pixels of a map to pixels of the picture that it is of."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

CUTS = v2.CenterCrop, v2.FiveCrop, v2.Pad, v2.RandomCrop, v2.RandomResizedCrop, v2.TenCrop


def picture_size(path: str, pre_processor: Any = None) -> tuple[int, int] | None:  # noqa: ANN401
    """Look up how large a picture is whose map covers all of it.

    Args:
        path: Its file.
        pre_processor: That of the model, whose `transform` may cut the picture.

    Returns:
        Height and width in pixels, from the header of the file; ``None`` where there is no file, or the map shows a
        part of the picture alone.
    """
    if not Path(path).is_file() or _cuts(getattr(pre_processor, "transform", None)):
        return None
    with Image.open(path) as image:
        width, height = image.size
    return height, width


def _cuts(transform: Any) -> bool:  # noqa: ANN401
    parts = getattr(transform, "transforms", None)
    return isinstance(transform, CUTS) if parts is None else any(map(_cuts, parts))


def boxes_in_picture(
    boxes: NDArray[np.integer], map_size: tuple[int, int], size: tuple[int, int] | None
) -> NDArray[np.int64]:
    """Bring boxes and areas of regions from a map to the picture.

    Args:
        boxes: Integers ``(R, 5)``, left, top, width, height and area in pixels of the map, as of `label_regions`.
        map_size: Height and width of the map.
        size: Those of the picture; ``None`` to stay in pixels of the map.

    Returns:
        Int64 ``(R, 5)``, the same in pixels of the picture: each side of a box at the nearest border of a pixel.

    Example:
        >>> boxes_in_picture(np.array([[1, 0, 2, 1, 2]]), (2, 4), (10, 40)).tolist()
        [[10, 0, 20, 5, 100]]
    """
    if size is None:
        return boxes.astype(np.int64)
    down, right = size[0] / map_size[0], size[1] / map_size[1]
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]]) * [right, down, right, down]
    first, last = np.split(np.rint(corners).astype(np.int64), 2, axis=1)
    areas = np.rint(boxes[:, 4:] * (right * down)).astype(np.int64)
    placed: NDArray[np.int64] = np.maximum(np.hstack([first, last - first, areas]), [0, 0, 1, 1, 1])
    return placed
