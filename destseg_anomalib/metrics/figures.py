# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""All pixel figures of a test set from one pass over its scores."""

import math
from typing import NamedTuple

import numpy as np
from torchmetrics.utilities import rank_zero_warn

from destseg_anomalib.metrics.curves import (
    InstanceCurve,
    auroc,
    average_precision,
    best_f1,
    instance_curve,
    instance_precision,
    per_region_overlap,
)
from destseg_anomalib.metrics.instances import Regions
from destseg_anomalib.metrics.levels import BinnedPixels, ExactPixels
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
        regions: The regions, in the order of the images.
    """

    auroc: float
    average_precision: float
    per_region_overlap: float
    best_f1: float
    curve: InstanceCurve
    regions: Regions


def pixel_figures(pixels: ExactPixels | BinnedPixels, regions: Regions) -> PixelFigures:
    """Compute every pixel figure from one pass over the levels of score.

    Args:
        pixels: The pixels by level.
        regions: The regions.

    Returns:
        The figures; with a warning if there is no region or no background.
    """
    keys = np.sort(to_ordered(regions.scores))
    precision = [np.empty((3, 0))]
    sums, highest_f1, negatives = np.zeros(3), math.nan, 0
    for levels, shares in pixels.levels():
        sums += auroc(levels), average_precision(levels), per_region_overlap(levels, shares)
        highest_f1 = float(np.fmax(highest_f1, best_f1(levels)))
        # A region's score is the score of one of its pixels, so each is met among the levels that hold it.
        precision.append(instance_precision(levels, levels.held(keys)))
        negatives = levels.negatives
    if not keys.size:
        rank_zero_warn("The ground truth holds no region, so all pixel figures are undefined (NaN).", UserWarning)
        sums[:] = math.nan
    elif not negatives:
        rank_zero_warn("The ground truth holds no background, so pixel AUROC and PRO are undefined (NaN).", UserWarning)
    return PixelFigures(
        auroc=float(sums[0]),
        average_precision=float(sums[1]),
        per_region_overlap=float(sums[2]),
        best_f1=highest_f1,
        curve=instance_curve(from_ordered(keys), np.hstack(precision)),
        regions=regions,
    )


def bits_for(pixels: int) -> int | None:
    """Choose how pixels are kept: exactly, or counted where they would take more than a gibibyte.

    Args:
        pixels: Of all maps of a test.

    Returns:
        `bits` of `PixelFiguresMetric`.

    Example:
        >>> bits_for(1000 * 256**2), bits_for(1000 * 2048**2)
        (None, 18)
    """
    return None if 4 * pixels <= 1 << 30 else 18


class PixelFiguresMetric(PixelStore):
    """Store that computes :class:`PixelFigures`.

    Args:
        bits: ``None`` for exact figures, or the leading bits of a float32 score that tell pixels apart.
    """

    def __init__(self, bits: int | None = None) -> None:
        super().__init__(bits=bits)

    def compute(self) -> PixelFigures:
        """Compute the figures of everything seen so far, over all processes while synchronised."""
        return pixel_figures(*self.collect())
