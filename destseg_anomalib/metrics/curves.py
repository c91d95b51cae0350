# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""From counts at thresholds to figures: AUROC, AP, PRO, best F1, and precision over instance recall.

AUROC, AP and PRO are sums over the positives, of a term that depends on the score s of the positive alone: with ``tp``
the positives and ``fp`` the negatives at or above s, ``gt`` the negatives above s, and P and N all positives and
negatives. The functions return the sum over the thresholds that they are given, so that a large set can be summed
block by block. Counts are int64, divisions float64.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from destseg_anomalib.metrics.negatives import NegativeCounts


class ThresholdCounts(NamedTuple):
    """Positives and negatives at ascending thresholds.

    Attributes:
        thresholds: Float32 ``(U,)``, scores of U positives; equal scores repeat.
        tp: Int64 ``(U,)``, positives at or above each threshold.
        fp: Negatives at and above each threshold.
        positives: All positives of the set, P.
        negatives: All negatives of the set, N.
    """

    thresholds: NDArray[np.float32]
    tp: NDArray[np.int64]
    fp: NegativeCounts
    positives: int
    negatives: int

    def take(self, thresholds: NDArray[np.float32]) -> "ThresholdCounts":
        """Pick some of the thresholds.

        Args:
            thresholds: Float32 ``(V,)``, each of them one of the thresholds.

        Returns:
            Their counts.
        """
        at = self.thresholds.searchsorted(thresholds)
        return self._replace(thresholds=thresholds, tp=self.tp[at], fp=self.fp.take(at))


def auroc(counts: ThresholdCounts) -> float:
    """Area under the receiver operating characteristic; a tie counts half.

    Args:
        counts: Counts at the score of each positive, or of some of them.

    Returns:
        ``sum(N - (fp + gt) / 2) / (P N)``, NaN if the set has no positives or no negatives.
    """
    if not counts.positives or not counts.negatives:
        return math.nan
    below = counts.negatives - (counts.fp.upper + counts.fp.above) / 2
    return float(below.sum()) / (counts.positives * counts.negatives)


def average_precision(counts: ThresholdCounts) -> float:
    """Average precision, the sum of precision times the step in recall (no interpolation).

    Args:
        counts: Counts at the score of each positive, or of some of them.

    Returns:
        ``sum(tp / (tp + fp)) / P``, NaN if the set has no positives.
    """
    if not counts.positives:
        return math.nan
    return float((counts.tp / (counts.tp + counts.fp.at_least)).sum()) / counts.positives


def best_f1(counts: ThresholdCounts) -> float:
    """Highest F1 score over the thresholds.

    Args:
        counts: Counts at the score of each positive, or of some of them.

    Returns:
        ``max(2 tp / (tp + fp + P))``, NaN if the set has no positives.
    """
    if not counts.positives:
        return math.nan
    return float((2 * counts.tp / (counts.tp + counts.fp.at_least + counts.positives)).max())


def per_region_overlap(counts: ThresholdCounts, weights: NDArray[np.float64], limit: float = 0.3) -> float:
    """Area under the per-region overlap over the false positive rate up to a limit, divided by the limit.

    Along a tie both rates move together, so the curve is linear there (Bergmann et al., MVTec AD, IJCV 2021, sec. 5).

    Args:
        counts: Counts at the score of each positive, or of some of them.
        weights: Float64 ``(U,)``, what each positive adds to the mean overlap: 1 over its region's area and the number
            of regions.
        limit: Highest false positive rate, in (0, 1].

    Returns:
        With ``L = limit N`` and counts cut at L, ``sum(w (L - fp + (fp - gt)^2 / (2 tied))) / L``, where ``tied`` is
        ``fp - gt`` before the cut; NaN if the set has no positives or no negatives.
    """
    if not counts.positives or not counts.negatives:
        return math.nan
    end = limit * counts.negatives
    fp, gt = np.minimum(counts.fp.upper, end), np.minimum(counts.fp.above, end)
    tied = np.maximum(counts.fp.upper - counts.fp.above, 1)
    # Not a dot product: OpenBLAS would give it to threads, which take 500 times as long where a core is busy.
    return float((weights * (end - fp + (fp - gt) ** 2 / (2 * tied))).sum()) / end


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


def instance_precision(counts: ThresholdCounts) -> NDArray[np.float64]:
    """Pixel precision at thresholds, ``tp / (tp + fp)``, with sure bounds.

    Args:
        counts: Counts at U thresholds, in practice region scores.

    Returns:
        Float64 ``(3, U)``: best estimate, lower and upper bound.
    """
    fp = np.stack([counts.fp.at_least, counts.fp.upper, counts.fp.lower])
    return counts.tp / (counts.tp + fp)


def instance_curve(scores: NDArray[np.float32], precision: NDArray[np.float64]) -> InstanceCurve:
    """Make precision monotone over instance recall: the running maximum from low to high scores.

    Args:
        scores: Float32 ``(N,)``, the region scores, ascending.
        precision: Float64 ``(3, N)``, as of :func:`instance_precision`.

    Returns:
        The curve.
    """
    return InstanceCurve(scores, *np.maximum.accumulate(precision, axis=1))


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
