# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""From counts at thresholds to figures: AUROC, AP, PRO, best F1, and precision over instance recall.

AUROC, AP and PRO are sums over levels of score. The functions return the sum over the levels that they are given, so
that a large set can be summed block by block. The n positives and m negatives in a level, with ``tp`` and ``fp`` above
it, are tied if it is one score, and taken as evenly spread if it is wider. P and N are all positives and negatives.
Counts are int64, divisions float64.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from destseg_anomalib.metrics.levels import Levels
from destseg_anomalib.metrics.ordering import to_ordered

ZERO = to_ordered(np.zeros(1, dtype=np.float32))[0]


def auroc(levels: Levels) -> float:
    """Area under the receiver operating characteristic; a tie counts half.

    Args:
        levels: The levels of all positives, or some of them.

    Returns:
        ``sum(n (N - fp - m / 2)) / (P N)``, NaN if the set has no positives or no negatives.
    """
    if not levels.positives or not levels.negatives:
        return math.nan
    below = levels.negatives - levels.fp_above - levels.fp_in / 2
    return float((levels.tp_in * below).sum()) / (levels.positives * levels.negatives)


def average_precision(levels: Levels) -> float:
    """Average precision, the sum of precision times the step in recall (no interpolation).

    Args:
        levels: The levels of all positives, or some of them.

    Returns:
        ``sum(n (tp + n) / (tp + n + fp + m)) / P``, NaN if the set has no positives. In a wide level, the precision at
        the mean of its positives: ``(n + 1) / 2`` for n and ``m / 2`` for m.
    """
    if not levels.positives:
        return math.nan
    # But for the smallest that float32 has, only zero lies in the bin of zero: a tie, and often a large one.
    tied = (levels.first == ZERO) | (levels.width == 1)
    tp = levels.tp_above + np.where(tied, levels.tp_in, (levels.tp_in + 1) / 2)
    fp = levels.fp_above + np.where(tied, levels.fp_in, levels.fp_in / 2)
    return float((levels.tp_in * tp / (tp + fp)).sum()) / levels.positives


def best_f1(levels: Levels) -> float:
    """Highest F1 score over thresholds at the lower ends of levels.

    Args:
        levels: The levels of all positives, or some of them.

    Returns:
        ``max(2 (tp + n) / (tp + n + fp + m + P))``, NaN if the set has no positives.
    """
    if not levels.positives:
        return math.nan
    tp, fp = levels.tp_above + levels.tp_in, levels.fp_above + levels.fp_in
    return float((2 * tp / (tp + fp + levels.positives)).max())


def per_region_overlap(levels: Levels, shares: NDArray[np.float64], limit: float = 0.3) -> float:
    """Area under the per-region overlap over the false positive rate up to a limit, divided by the limit.

    Along a level both rates move together, so the curve is linear there (Bergmann et al., MVTec AD, IJCV 2021, sec. 5).

    Args:
        levels: The levels of all positives, or some of them.
        shares: Float64 ``(U,)``, what the positives of each level add to the mean overlap: each 1 over its region's
            area and the number of regions.
        limit: Highest false positive rate, in (0, 1].

    Returns:
        With ``L = limit N``, and ``above = fp`` and ``reached = fp + m`` cut at L, the sum of
        ``share (L - reached + (reached - above)^2 / (2 m)) / L``; NaN if the set has no positives or no negatives.
    """
    if not levels.positives or not levels.negatives:
        return math.nan
    end = limit * levels.negatives
    reached, above = np.minimum(levels.fp_above + levels.fp_in, end), np.minimum(levels.fp_above, end)
    # Not a dot product: OpenBLAS would give it to threads, which take 500 times as long where a core is busy.
    return float((shares * (end - reached + (reached - above) ** 2 / (2 * np.maximum(levels.fp_in, 1)))).sum()) / end


class InstanceCurve(NamedTuple):
    """Pixel precision over instance recall.

    Attributes:
        scores: Float32 ``(N,)``, the region scores, ascending. At ``scores[i]`` the instance recall is ``(N - i) / N``.
        precision: Float64 ``(N,)``, highest precision at that recall or a higher one.
        lower: Float64 ``(N,)``, a sure lower bound of it; the same if pixels were counted exactly.
        upper: Float64 ``(N,)``, a sure upper bound of it; the same if pixels were counted exactly.
    """

    scores: NDArray[np.float32]
    precision: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def instance_precision(levels: Levels, keys: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Pixel precision at scores of positives, with sure bounds.

    Args:
        levels: The levels that hold these positives, and any others.
        keys: Uint32 ``(V,)``, ordered integers of the scores.

    Returns:
        Float64 ``(3, V)``: best estimate, lower and upper bound; all the same if a level is one score.
    """
    at = levels.first.searchsorted(keys, "right") - 1
    tp_in, tp, fp_in, fp = (counts[at] for counts in levels[2:6])
    part = 1 - (keys - levels.first[at]) / levels.width  # of the level, at or above the score
    itself = tp_in if levels.width == 1 else 1  # of the positives in the level, those that surely reach the score
    reached = [
        (tp + itself + (tp_in - itself) * part, fp + fp_in * part),
        (tp + itself, fp + fp_in),
        (tp + tp_in, fp + (fp_in if levels.width == 1 else 0)),
    ]
    return np.stack([true / (true + false) for true, false in reached])


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
