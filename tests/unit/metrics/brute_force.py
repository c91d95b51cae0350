# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The definitions written out slowly, one pixel and one threshold at a time, with nothing of the package."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np


def regions_of(mask: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """Flood fill: pixels of each region, neighbours in all eight directions."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    while left:
        stack = [left.pop()]
        region = []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for pixel in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if pixel in left:
                    left.remove(pixel)
                    stack.append(pixel)
        yield region


def all_region_scores(preds: np.ndarray, target: np.ndarray, overlap: Fraction = Fraction(1, 2)) -> list[float]:
    """Scores of all regions, ascending."""
    scores = []
    for image, mask in zip(preds, target, strict=True):
        for region in regions_of(mask):
            descending = sorted((float(image[pixel]) for pixel in region), reverse=True)
            scores.append(descending[min(math.floor(overlap * len(region)), len(region) - 1)])
    return sorted(scores)


def precisions(preds: np.ndarray, target: np.ndarray, overlap: Fraction = Fraction(1, 2)) -> list[Fraction]:
    """Precision at each region score, made monotone."""
    result: list[Fraction] = []
    for score in all_region_scores(preds, target, overlap):
        predicted = preds >= np.float32(score)
        precision = Fraction(int((predicted & target).sum()), int(predicted.sum()))
        result.append(max([precision, *result[-1:]]))
    return result


def iap(preds: np.ndarray, target: np.ndarray, overlap: Fraction = Fraction(1, 2)) -> float:
    """Instance average precision."""
    found = precisions(preds, target, overlap)
    return math.fsum(float(p) for p in found) / len(found)


def iap_at(preds: np.ndarray, target: np.ndarray, recall: Fraction, overlap: Fraction = Fraction(1, 2)) -> float:
    """Precision at an instance recall, which is a fraction, so that there is no doubt about rounding."""
    found = precisions(preds, target, overlap)
    return float(found[min(math.floor(len(found) * (1 - recall)), len(found) - 1)])


def negatives_reaching(negatives: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many negatives are at least, and how many are greater than each threshold: all in one sorted row."""
    ascending = np.sort(negatives)
    at_least = len(ascending) - ascending.searchsorted(thresholds, "left")
    above = len(ascending) - ascending.searchsorted(thresholds, "right")
    return at_least, above


def pro(preds: np.ndarray, target: np.ndarray, limit: float = 0.3) -> float:
    """Area under the per-region overlap by trapezoids over all thresholds, cut at the limit."""
    regions = [
        [image[pixel] for pixel in region]
        for image, mask in zip(preds, target, strict=True)
        for region in regions_of(mask)
    ]
    negatives = preds[~target]
    rates, overlaps = [0.0], [0.0]
    for threshold in sorted(set(preds.flatten().tolist()), reverse=True):
        rates.append(float((negatives >= threshold).mean()))
        overlaps.append(float(np.mean([np.mean(np.array(region) >= threshold) for region in regions])))
    cut = np.interp(limit, rates, overlaps)
    inside = [(rate, overlap) for rate, overlap in zip(rates, overlaps, strict=True) if rate < limit]
    if rates[-1] > limit:
        # At a tie across the limit the curve is linear between the two neighbouring rates.
        after = next(index for index, rate in enumerate(rates) if rate >= limit)
        share = (limit - rates[after - 1]) / (rates[after] - rates[after - 1])
        cut = overlaps[after - 1] + share * (overlaps[after] - overlaps[after - 1])
    x, y = zip(*inside, (limit, cut), strict=True)
    return float(np.trapezoid(y, x)) / limit
