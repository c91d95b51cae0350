# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The defects that a model predicts in a picture, as a list."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from destseg_anomalib.metrics.instances import label_regions
from destseg_anomalib.metrics.picture_pixels import boxes_in_picture


class Defect(NamedTuple):
    """A predicted region, corners included, in pixels of the picture.

    Attributes:
        left: First column.
        top: First row.
        width: Columns.
        height: Rows.
        centre_x: Mean column of its pixels, where 0 is the middle of the first one.
        centre_y: Mean row likewise.
        area: Pixels.
        highest_score: Highest value of the anomaly map in it.
        mean_score: Mean value of the map in it.
    """

    left: int
    top: int
    width: int
    height: int
    centre_x: float
    centre_y: float
    area: int
    highest_score: float
    mean_score: float


def list_defects(
    mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32], size: tuple[int, int] | None = None, min_area: int = 1
) -> list[Defect]:
    """List the predicted regions of a picture.

    Args:
        mask: Boolean ``(H, W)``, predicted pixels.
        anomaly_map: Float32 ``(H, W)``.
        size: Height and width of the picture in pixels; ``None`` for those of the map.
        min_area: Pixels of the map that a defect has at least.

    Returns:
        The defects, highest score first.

    Example:
        >>> defect, = list_defects(np.eye(2, dtype=bool), np.array([[0.6, 0], [0, 0.8]], np.float32), size=(20, 10))
        >>> defect.width, defect.height, defect.centre_x, defect.centre_y, defect.area
        (10, 20, 4.5, 9.5, 100)
    """
    labels, boxes = label_regions(mask)
    if not len(boxes):
        return []
    rows, columns = np.nonzero(mask)
    of = labels[rows, columns] - 1
    scores = anomaly_map[rows, columns]
    highest = np.full(len(boxes), -np.inf)
    np.maximum.at(highest, of, scores)
    means = [np.bincount(of, values) / boxes[:, 4] for values in (columns, rows, scores)]
    down, right = (1.0, 1.0) if size is None else np.divide(size, mask.shape)
    centres = np.stack([(means[0] + 0.5) * right, (means[1] + 0.5) * down], axis=1) - 0.5
    placed = boxes_in_picture(boxes, (mask.shape[0], mask.shape[1]), size)
    order = [index for index in np.argsort(-highest, kind="stable") if boxes[index, 4] >= min_area]
    defects = []
    for index in order:
        left, top, width, height, area = map(int, placed[index])
        x, y = (round(float(centre), 1) for centre in centres[index])
        scores_of = float(highest[index]), float(means[2][index])
        defects.append(Defect(left, top, width, height, x, y, area, *scores_of))
    return defects
