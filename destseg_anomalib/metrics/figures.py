# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""All pixel figures of a test set from one pass over its scores."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchmetrics.utilities import rank_zero_warn

from destseg_anomalib.metrics.curves import (
    InstanceCurve,
    auroc,
    average_precision,
    best_f1,
    count_at,
    instance_curve,
    per_region_overlap,
)
from destseg_anomalib.metrics.instances import region_scores
from destseg_anomalib.metrics.negatives import Negatives
from destseg_anomalib.metrics.ordering import from_ordered, to_ordered
from destseg_anomalib.metrics.store import PixelStore


class PixelFigures(NamedTuple):
    """Figures that rank pixels; NaN where a set without regions or without background leaves them undefined.

    Attributes:
        auroc: Area under the ROC curve over all pixels.
        average_precision: Average precision over all pixels.
        per_region_overlap: Normalised area under the per-region overlap up to a false positive rate of 0.3.
        best_f1: Highest F1 score over all thresholds.
        curve: Pixel precision over instance recall, from which IAP and IAP@k follow.
        region_scores: Float32 ``(R,)``, one per region, in the order of the images.
    """

    auroc: float
    average_precision: float
    per_region_overlap: float
    best_f1: float
    curve: InstanceCurve
    region_scores: NDArray[np.float32]


def pixel_figures(
    positives: NDArray[np.float32], areas: NDArray[np.int64], negatives: Negatives, overlap: float = 0.5
) -> PixelFigures:
    """Compute every pixel figure from one sort of the positives and one of the negatives.

    Args:
        positives: Float32 ``(P,)``, region after region, ascending within each.
        areas: Int64 ``(R,)``, pixels per region.
        negatives: The background.
        overlap: Fraction of a region that must be exceeded for it to count as found.

    Returns:
        The figures; with a warning if there is no region or no background.
    """
    if not areas.size:
        rank_zero_warn("The ground truth holds no region, so all pixel figures are undefined (NaN).", UserWarning)
    elif not negatives.total:
        rank_zero_warn("The ground truth holds no background, so pixel AUROC and PRO are undefined (NaN).", UserWarning)
    ascending, distinct, share = rank_positives(positives, areas)
    scores = region_scores(positives, areas, overlap)
    counts = count_at(distinct, ascending, negatives)
    return PixelFigures(
        auroc=auroc(counts),
        average_precision=average_precision(counts),
        per_region_overlap=per_region_overlap(counts, share),
        best_f1=best_f1(counts),
        curve=instance_curve(scores, counts),
        region_scores=scores,
    )


def rank_positives(
    positives: NDArray[np.float32], areas: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Order the positives by score and share out the mean region overlap among the scores.

    Args:
        positives: Float32 ``(P,)``, region after region.
        areas: Int64 ``(R,)``, pixels per region.

    Returns:
        All scores ascending, float32 ``(P,)``; the distinct ones, float32 ``(U,)``; and what the pixels of each
        distinct score add to the mean overlap of the regions, float64 ``(U,)``, which sums to 1.

    Example:
        >>> import numpy as np
        >>> rank_positives(np.array([3, 1, 3], dtype=np.float32), np.array([1, 2]))[2].tolist()
        [0.25, 0.75]
    """
    # Integers (score, region): a plain sort carries the region along.
    keys = to_ordered(positives).astype(np.uint64) << np.uint64(32)
    keys |= np.repeat(np.arange(areas.size, dtype=np.uint64), areas)
    keys.sort()
    ascending = from_ordered((keys >> np.uint64(32)).astype(np.uint32))
    first = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1])[: ascending.size])
    share = (1 / (areas.size * areas))[keys & np.uint64(0xFFFFFFFF)] if areas.size else np.empty(0)
    return ascending, ascending[first], np.add.reduceat(share, first) if first.size else share


class PixelFiguresMetric(PixelStore):
    """Store that computes :class:`PixelFigures`.

    Args:
        bits: ``None`` for exact figures, or the leading bits of a float32 score that tell background pixels apart.
    """

    def __init__(self, bits: int | None = None) -> None:
        super().__init__(bits=bits)

    def compute(self) -> PixelFigures:
        """Compute the figures of everything seen so far, over all processes while synchronised."""
        return pixel_figures(*self.collect())
