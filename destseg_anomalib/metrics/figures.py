# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""All pixel figures of a test set from one pass over its scores."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchmetrics.utilities import rank_zero_warn

from destseg_anomalib.metrics.curves import (
    InstanceCurve,
    ThresholdCounts,
    auroc,
    average_precision,
    best_f1,
    instance_curve,
    instance_precision,
    per_region_overlap,
)
from destseg_anomalib.metrics.instances import Regions, region_scores
from destseg_anomalib.metrics.negatives import Negatives
from destseg_anomalib.metrics.ordering import from_ordered, to_ordered
from destseg_anomalib.metrics.store import PixelStore

BLOCK = 1 << 15  # positives weighed at a time, so that the arrays of the formulas stay in the cache
_REGION = np.uint64(0xFFFFFFFF)


class PixelFigures(NamedTuple):
    """Figures that rank pixels; NaN where a set without regions or without background leaves them undefined.

    Attributes:
        auroc: Area under the ROC curve over all pixels.
        average_precision: Average precision over all pixels.
        per_region_overlap: Normalised area under the per-region overlap up to a false positive rate of 0.3.
        best_f1: Highest F1 score over all thresholds.
        curve: Pixel precision over instance recall, from which IAP and IAP@k follow.
        regions: The regions, in the order of the images.
        region_scores: Float32 ``(R,)``, one per region, in the same order.
    """

    auroc: float
    average_precision: float
    per_region_overlap: float
    best_f1: float
    curve: InstanceCurve
    regions: Regions
    region_scores: NDArray[np.float32]


def pixel_figures(regions: Regions, negatives: Negatives, overlap: float = 0.5) -> PixelFigures:
    """Compute every pixel figure from one sort of the positives and one of the negatives.

    Args:
        regions: The regions.
        negatives: The background.
        overlap: Fraction of a region that must be exceeded for it to count as found.

    Returns:
        The figures; with a warning if there is no region or no background.
    """
    scores = region_scores(regions, overlap)
    ascending = np.sort(scores)
    precision = np.empty((3, scores.size))
    sums, highest_f1 = np.zeros(3), math.nan
    for counts, weights in _blocks(regions, negatives):
        sums += auroc(counts), average_precision(counts), per_region_overlap(counts, weights)
        highest_f1 = float(np.fmax(highest_f1, best_f1(counts)))
        # A region's score is the score of one of its pixels, so each is met in the block that holds it.
        first = ascending.searchsorted(counts.thresholds[0], "left")
        last = ascending.searchsorted(counts.thresholds[-1], "right")
        precision[:, first:last] = instance_precision(counts.take(ascending[first:last]))
    if not scores.size:
        rank_zero_warn("The ground truth holds no region, so all pixel figures are undefined (NaN).", UserWarning)
        sums[:] = math.nan
    elif not negatives.total:
        rank_zero_warn("The ground truth holds no background, so pixel AUROC and PRO are undefined (NaN).", UserWarning)
    return PixelFigures(
        auroc=float(sums[0]),
        average_precision=float(sums[1]),
        per_region_overlap=float(sums[2]),
        best_f1=highest_f1,
        curve=instance_curve(ascending, precision),
        regions=regions,
        region_scores=scores,
    )


def _blocks(regions: Regions, negatives: Negatives) -> Iterator[tuple[ThresholdCounts, NDArray[np.float64]]]:
    """Count at all positives in ascending order, block by block, with each one's share in the mean region overlap."""
    # Integers (score, region): a plain sort carries the region along. In parts, to hold one array of that length.
    keys = np.repeat(np.arange(regions.areas.size, dtype=np.uint64), regions.areas)
    for first in range(0, keys.size, BLOCK):
        part = slice(first, first + BLOCK)
        keys[part] |= to_ordered(regions.positives[part]).astype(np.uint64) << np.uint64(32)
    keys.sort()
    shares = 1 / (regions.areas * regions.areas.size)
    for start in range(0, keys.size, negatives.at_once):
        yield from _weighed(keys, slice(start, start + negatives.at_once), shares, negatives)


def _weighed(
    keys: NDArray[np.uint64], counted: slice, shares: NDArray[np.float64], negatives: Negatives
) -> Iterator[tuple[ThresholdCounts, NDArray[np.float64]]]:
    """Count at some of the positives; the counts are freed before the next ones are made."""
    fp = negatives.count(_scores(keys[counted]))
    for first in range(0, fp.above.size, BLOCK):
        block = keys[counted][first : first + BLOCK]
        tp = keys.size - _first_of_tie(keys, counted.start + first, block)
        counts = ThresholdCounts(_scores(block), tp, fp.take(slice(first, first + BLOCK)), keys.size, negatives.total)
        yield counts, shares[block & _REGION]


def _first_of_tie(keys: NDArray[np.uint64], start: int, block: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Index of the first key (score, region) with the score of each key of a block, which begins at an index."""
    first = np.arange(start, start + block.size)
    scores = block >> np.uint64(32)
    first[1:][scores[1:] == scores[:-1]] = 0
    first[0] = keys.searchsorted(block[0] & ~_REGION)  # a tie may have begun before the block
    return np.maximum.accumulate(first)


def _scores(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Scores of keys (score, region)."""
    return from_ordered((keys >> np.uint64(32)).astype(np.uint32))


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
