# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""From counts at thresholds to figures: AUROC, AP, PRO, best F1, and precision over instance recall.

Every figure is a sum over the distinct scores u of the positives, with ``tp`` the positives and ``fp`` the negatives
at or above u, ``gt`` the negatives above u, P and N all positives and negatives. Counts are int64, divisions float64.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from destseg_anomalib.metrics.negatives import NegativeCounts, Negatives


class ThresholdCounts(NamedTuple):
    """Positives and negatives at ascending, distinct thresholds.

    Attributes:
        thresholds: Float32 ``(U,)``.
        tp: Int64 ``(U,)``, positives at or above each threshold.
        fp: Negatives at and above each threshold.
        positives: All positives, P.
        negatives: All negatives, N.
    """

    thresholds: NDArray[np.float32]
    tp: NDArray[np.int64]
    fp: NegativeCounts
    positives: int
    negatives: int


def count_at(thresholds: NDArray[np.float32], positives: NDArray[np.float32], negatives: Negatives) -> ThresholdCounts:
    """Count positives and negatives at given thresholds.

    Args:
        thresholds: Float32 ``(U,)``, ascending and distinct.
        positives: Float32 ``(P,)``, ascending.
        negatives: The background.

    Returns:
        The counts; with all distinct positive scores as thresholds they are what the figures below need.
    """
    tp = positives.size - positives.searchsorted(thresholds, "left").astype(np.int64)
    return ThresholdCounts(thresholds, tp, negatives.count(thresholds), positives.size, negatives.total)


def auroc(counts: ThresholdCounts) -> float:
    """Area under the receiver operating characteristic; a tie counts half.

    Args:
        counts: Counts at all distinct positive scores.

    Returns:
        A value in [0, 1], or NaN without positives or without negatives.
    """
    if not counts.positives or not counts.negatives:
        return math.nan
    at_score = -np.diff(counts.tp, append=0)
    below = counts.negatives - (counts.fp.upper + counts.fp.above) / 2
    return float(at_score @ below) / (counts.positives * counts.negatives)


def average_precision(counts: ThresholdCounts) -> float:
    """Average precision, the sum of precision times the step in recall (no interpolation).

    Args:
        counts: Counts at all distinct positive scores.

    Returns:
        A value in [0, 1], or NaN without positives.
    """
    if not counts.positives:
        return math.nan
    at_score = -np.diff(counts.tp, append=0)
    return float(at_score @ (counts.tp / (counts.tp + counts.fp.at_least))) / counts.positives


def best_f1(counts: ThresholdCounts) -> float:
    """Highest F1 score over all thresholds.

    Args:
        counts: Counts at all distinct positive scores.

    Returns:
        A value in [0, 1], or NaN without positives.
    """
    if not counts.positives:
        return math.nan
    return float(np.max(2 * counts.tp / (counts.tp + counts.fp.at_least + counts.positives)))


def per_region_overlap(counts: ThresholdCounts, overlap: NDArray[np.float64], limit: float = 0.3) -> float:
    """Area under the per-region overlap over the false positive rate up to a limit, divided by the limit.

    Along a tie both rates move together, so the curve is linear there (Bergmann et al., MVTec AD, IJCV 2021, sec. 5).

    Args:
        counts: Counts at all distinct positive scores.
        overlap: Float64 ``(U,)``, what the pixels of each score add to the mean overlap of the regions; sums to 1.
        limit: Highest false positive rate, in (0, 1].

    Returns:
        A value in [0, 1], or NaN without positives or without negatives.
    """
    if not counts.positives or not counts.negatives:
        return math.nan
    end = limit * counts.negatives
    fp, gt = np.minimum(counts.fp.upper, end), np.minimum(counts.fp.above, end)
    tied = np.maximum(counts.fp.upper - counts.fp.above, 1)
    return float(overlap @ ((end - fp) + (fp - gt) ** 2 / (2 * tied))) / end


class InstanceCurve(NamedTuple):
    """Pixel precision over instance recall.

    Attributes:
        scores: Float32 ``(N,)``, the region scores, ascending. At ``scores[i]`` the instance recall is ``(N - i) / N``.
        precision: Float64 ``(N,)``, highest precision at that recall or a higher one.
        lower: Float64 ``(N,)``, a sure lower bound of it; the same if background pixels were counted exactly.
        upper: Float64 ``(N,)``, a sure upper bound of it; the same if background pixels were counted exactly.
    """

    scores: NDArray[np.float32]
    precision: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def instance_curve(scores: NDArray[np.float32], counts: ThresholdCounts) -> InstanceCurve:
    """Pixel precision at the score of each region, made monotone over instance recall.

    With the N region scores in ascending order, ``P_i = tp(s_i) / (tp(s_i) + fp(s_i))`` over all pixels of the set,
    then the running maximum from low to high scores (DeSTSeg, arXiv 2211.11317, section 4.1).

    Args:
        scores: Float32 ``(N,)``, region scores.
        counts: Counts at thresholds that include every region score.

    Returns:
        The curve.
    """
    scores = np.sort(scores)
    at = counts.thresholds.searchsorted(scores)
    tp = counts.tp[at]
    precision, lower, upper = (
        np.maximum.accumulate(tp / (tp + fp[at])) for fp in (counts.fp.at_least, counts.fp.upper, counts.fp.lower)
    )
    return InstanceCurve(scores, precision, lower, upper)


def mean_precision(precision: NDArray[np.float64]) -> float:
    """IAP, the mean of the precision of an :class:`InstanceCurve` over its regions, or NaN without regions.

    Args:
        precision: Float64 ``(N,)``.

    Returns:
        A value in [0, 1], or NaN.
    """
    return math.fsum(precision) / precision.size if precision.size else math.nan


def index_at_recall(regions: int, recall: float) -> int:
    """Index of the ascending region score at which an instance recall is reached.

    Args:
        regions: Number of regions N, at least 1.
        recall: Instance recall k in [0, 1].

    Returns:
        ``min(floor(N (1 - k)), N - 1)``.

    Example:
        >>> index_at_recall(10, 0.9), index_at_recall(10, 0.0)
        (1, 9)
    """
    # N (1 - k) of a decimal k may fall just below the whole number it means.
    return min(math.floor(regions * (1 - recall) + 1e-9), regions - 1)


def precision_at(precision: NDArray[np.float64], recall: float) -> float:
    """IAP@k, the precision of an :class:`InstanceCurve` where a recall of k is reached, or NaN without regions.

    Args:
        precision: Float64 ``(N,)``.
        recall: Instance recall k in [0, 1].

    Returns:
        A value in [0, 1], or NaN.
    """
    return float(precision[index_at_recall(precision.size, recall)]) if precision.size else math.nan
