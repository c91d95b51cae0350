# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Connected ground-truth regions ("instances") and their scores."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from destseg_anomalib.metrics.ordering import from_ordered, to_ordered


class Regions(NamedTuple):
    """Ground-truth regions of one image or of a whole set.

    Attributes:
        scores: Float32 ``(R,)``, the score of each region, see :func:`region_scores`.
        areas: Int64 ``(R,)``, pixels per region.
        boxes: Int32 ``(R, 4)``, left, top, width and height of each region in pixels of its mask.
    """

    scores: NDArray[np.float32]
    areas: NDArray[np.int64]
    boxes: NDArray[np.int32]


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Label the 8-connected regions of one mask.

    Args:
        mask: Boolean ``(H, W)``.

    Returns:
        Int32 labels ``(H, W)``, 0 for background and 1 to R for the regions, and int32 ``(R, 5)``: left, top, width,
        height and area of each region.

    Example:
        >>> import numpy as np
        >>> labels, boxes = label_regions(np.eye(3, dtype=bool))  # touching corners are one region
        >>> boxes.tolist()
        [[0, 0, 3, 3, 3]]
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return labels, stats[1:]  # OpenCV's first row is the background, also where there is none


def find_regions(
    scores: NDArray[np.float32], mask: NDArray[np.bool_], overlap: float = 0.5
) -> tuple[NDArray[np.float32], Regions]:
    """Find the regions of one image and their scores.

    Args:
        scores: Float32 anomaly map ``(H, W)``, higher is more anomalous, without NaN.
        mask: Boolean ground truth ``(H, W)``.
        overlap: Fraction of a region that must be exceeded for it to count as found, in [0, 1).

    Returns:
        Float32 ``(P,)``, the scores of defective pixels, region after region and ascending in each, and the regions.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[8, 1, 4], [6, 2, 3]], dtype=np.float32)
        >>> mask = np.array([[1, 0, 1], [1, 0, 0]], dtype=bool)
        >>> positives, regions = find_regions(scores, mask)
        >>> positives.tolist(), regions.scores.tolist(), regions.areas.tolist()
        ([6.0, 8.0, 4.0], [6.0, 4.0], [2, 1])
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if not width:
        none = np.empty(0, np.float32)
        return none, Regions(none, np.empty(0, np.int64), np.empty((0, 4), np.int32))
    part = slice(top, top + height), slice(left, left + width)  # most masks are mostly empty
    crop = np.ascontiguousarray(mask[part])
    labels, boxes = label_regions(crop)
    boxes[:, :2] += left, top
    # One sort of integers (region, score) groups the pixels by region and orders each region.
    keys = (labels[crop].astype(np.uint64) << np.uint64(32)) | to_ordered(scores[part][crop])
    keys.sort()
    positives, areas = from_ordered(keys.astype(np.uint32)), boxes[:, 4].astype(np.int64)
    return positives, Regions(region_scores(positives, areas, overlap), areas, boxes[:, :4])


def region_scores(
    positives: NDArray[np.float32], areas: NDArray[np.int64], overlap: float = 0.5
) -> NDArray[np.float32]:
    """Score each region by the highest threshold at which more than ``overlap`` of it is found.

    A region of n pixels scores the value at index ``min(floor(overlap * n), n - 1)`` of its pixels in descending order
    (DeSTSeg, arXiv 2211.11317, section 4.1, which has ``overlap = 0.5``).

    Args:
        positives: Float32 ``(P,)``, the scores of pixels, region after region and ascending in each.
        areas: Int64 ``(R,)``, pixels per region; they sum to P.
        overlap: Fraction of a region that must be exceeded, in [0, 1).

    Returns:
        Float32 ``(R,)``, one score per region.

    Example:
        >>> import numpy as np
        >>> region_scores(np.array([1, 2, 3, 8, 9], dtype=np.float32), np.array([3, 2])).tolist()
        [2.0, 8.0]
    """
    # The small term keeps the product of a decimal fraction and n from falling just below the whole number it means.
    from_top = np.minimum(np.floor(areas * overlap + 1e-9).astype(np.int64), areas - 1)
    return positives[np.cumsum(areas) - 1 - from_top]


def to_arrays(
    preds: torch.Tensor, target: torch.Tensor, names: Sequence[str] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Check a batch of maps and masks and bring it to the CPU.

    Args:
        preds: Anomaly maps ``(B, H, W)`` or ``(B, 1, H, W)``, any real dtype; compared in float32.
        target: Ground truth of the same batch and size, boolean, or numbers that are 0 or 1.
        names: Names of the images, for messages; their numbers in the batch if ``None``.

    Returns:
        Maps as float32 ``(B, H, W)`` and masks as boolean ``(B, H, W)``.

    Raises:
        ValueError: If the shapes are wrong or differ, a mask is not binary or a map holds NaN.
    """
    if preds.ndim not in {3, 4} or (preds.ndim == 4 and preds.shape[1] != 1):
        msg = f"Anomaly maps must have shape (B, H, W) or (B, 1, H, W), got {tuple(preds.shape)}."
        raise ValueError(msg)
    height_width, batch = preds.shape[-2:], preds.shape[0]
    if target.ndim not in {3, 4} or target.numel() != preds.numel() or target.shape[-2:] != height_width:
        msg = (
            f"Masks {tuple(target.shape)} do not fit anomaly maps {tuple(preds.shape)}: give one mask per map, of the "
            "same height and width."
        )
        raise ValueError(msg)
    maps = preds.detach().to("cpu", torch.float32).reshape(batch, *height_width).contiguous().numpy()
    masks = target.detach().cpu().reshape(batch, *height_width).contiguous()
    if masks.dtype != torch.bool:
        binary = masks == 1
        if not bool(torch.equal(binary, masks != 0)):
            msg = "A ground-truth mask holds values other than 0 and 1; threshold the masks first."
            raise ValueError(msg)
        masks = binary
    for index in np.flatnonzero(np.isnan(maps.max(axis=(1, 2), initial=-np.inf))).tolist():
        name = names[index] if names else f"number {index} of the batch"
        msg = f"The anomaly map of image {name} contains NaN, so its pixels cannot be ranked; check the model's output."
        raise ValueError(msg)
    return maps, masks.numpy()
