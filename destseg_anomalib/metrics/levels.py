# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The pixels of a test set by levels of score: exactly, one score a level, or in bins of fixed number.

All pixel figures follow from how many positives and negatives lie at and above each level that holds a positive.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from destseg_anomalib.metrics.negatives import ExactNegatives, add_to_places, pieces
from destseg_anomalib.metrics.ordering import from_ordered, to_ordered

BLOCK = 1 << 17  # positives counted at a time: each call reads all scores, each positive takes memory
SHARE = 1 << 40  # what a region adds to the shares of bins, whole so that the order of sums does not matter
_REGION = np.uint64(0xFFFFFFFF)


class Levels(NamedTuple):
    """Levels of score that hold positives, ascending.

    Attributes:
        first: Uint32 ``(U,)``, the lowest score of each level, as in :func:`~.ordering.to_ordered`.
        width: How many of these integers a level holds: 1 if it is one score, on which all of its pixels are tied.
        tp_in: Int64 ``(U,)``, positives in each level, at least 1.
        tp_above: Int64 ``(U,)``, positives in higher levels.
        fp_in: Int64 ``(U,)``, negatives in each level.
        fp_above: Int64 ``(U,)``, negatives above each level.
        positives: All positives of the set, P.
        negatives: All negatives of the set, N.
    """

    first: NDArray[np.uint32]
    width: int
    tp_in: NDArray[np.int64]
    tp_above: NDArray[np.int64]
    fp_in: NDArray[np.int64]
    fp_above: NDArray[np.int64]
    positives: int
    negatives: int

    def held(self, keys: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Pick the keys between the lowest and the highest level."""
        return keys[(keys >= self.first[0]) & (keys <= self.first[-1] + np.uint32(self.width - 1))]


class ExactPixels:
    """Pixels of which every score is known.

    Args:
        positives: Float32 ``(P,)``, region after region.
        areas: Int64 ``(R,)``, pixels per region; they sum to P.
        negatives: The background.
    """

    def __init__(self, positives: NDArray[np.float32], areas: NDArray[np.int64], negatives: ExactNegatives) -> None:
        self.positives, self.areas, self.negatives = positives, areas, negatives

    def at(self, keys: NDArray[np.uint32]) -> Levels:
        """Count at some scores of positives alone.

        Args:
            keys: Uint32 ``(V,)``, ordered integers of these scores; they may repeat.

        Returns:
            A level for each different score.
        """
        first, ascending = np.unique(keys), np.sort(self.positives)
        lower, higher = (ascending.searchsorted(from_ordered(first), side) for side in ("left", "right"))
        return self._levels(first, lower, higher)

    def levels(self) -> Iterator[tuple[Levels, NDArray[np.float64]]]:
        """Count at all positives, block by block.

        Yields:
            Levels, and what the positives of each add to the mean overlap of the regions, float64 ``(U,)``.
        """
        # Integers (score, region): a plain sort carries the region along. In parts, to hold one array of that length.
        keys = np.repeat(np.arange(self.areas.size, dtype=np.uint64), self.areas)
        for start in range(0, keys.size, BLOCK):
            part = slice(start, start + BLOCK)
            keys[part] |= to_ordered(self.positives[part]).astype(np.uint64) << np.uint64(32)
        keys.sort()
        shares = 1 / (self.areas * self.areas.size)
        start = 0
        while start < keys.size:
            stop = int(keys.searchsorted(keys[start : start + BLOCK][-1] | _REGION, "right"))  # no tie is parted
            block = keys[start:stop]
            scores = (block >> np.uint64(32)).astype(np.uint32)
            lower = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
            levels = self._levels(scores[lower], start + lower, start + np.append(lower[1:], block.size))
            yield levels, np.add.reduceat(shares[block & _REGION], lower)
            start = stop

    def _levels(self, first: NDArray[np.uint32], lower: NDArray[np.int64], higher: NDArray[np.int64]) -> Levels:
        """Levels of one score each, with the numbers of positives below and up to each."""
        positives = self.positives.size
        at_least, above = self.negatives.count(from_ordered(first))
        counts = higher - lower, positives - higher, at_least - above, above
        return Levels(first, 1, *counts, positives, self.negatives.total)


class BinnedPixels:
    """Pixels counted in bins of the top bits of their ordered integers, which takes the same memory for all sets.

    Args:
        histogram: Int64 ``(3, 2 ** bits)``: negatives, positives, and their shares in the overlap of their regions.
        regions: Number of regions.

    Example:
        >>> import numpy as np
        >>> histogram = np.zeros((3, 2**12), dtype=np.int64)
        >>> add_scores(histogram, np.array([0.0, 0.5, 0.5, 2.0], dtype=np.float32))
        >>> move_positives(histogram, np.array([0.5], dtype=np.float32), np.array([1]))
        >>> ((levels, shares),) = BinnedPixels(histogram, regions=1).levels()
        >>> from_ordered(levels.first).tolist(), levels.fp_in.tolist(), levels.fp_above.tolist(), shares.tolist()
        ([0.5], [1], [1], [1.0])
    """

    def __init__(self, histogram: NDArray[np.int64], regions: int) -> None:
        negatives, positives, shares = histogram
        held = np.flatnonzero(positives)
        # Sums over the bins from one that holds positives to the next: nothing as long as the histogram is made.
        at_least = np.cumsum(np.add.reduceat(negatives, held)[::-1])[::-1] if held.size else held
        tp_in, fp_in = positives[held], negatives[held]
        tp = np.cumsum(tp_in[::-1])[::-1]
        width = (1 << 33) >> positives.size.bit_length()
        counts = tp_in, tp - tp_in, fp_in, at_least - fp_in
        first = held.astype(np.uint32) * np.uint32(width)
        self._levels = Levels(first, width, *counts, int(tp_in.sum()), int(negatives.sum()))
        self._shares = shares[held] / (SHARE * max(regions, 1))

    def at(self, keys: NDArray[np.uint32]) -> Levels:
        """Give all levels, among them those of any positives."""
        del keys
        return self._levels

    def levels(self) -> Iterator[tuple[Levels, NDArray[np.float64]]]:
        """Give all levels, if there are any, with what the positives of each add to the mean overlap of the regions."""
        if self._levels.positives:
            yield self._levels, self._shares


def add_scores(histogram: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """Count pixels as negatives.

    Args:
        histogram: Int64 ``(3, 2 ** bits)``, ascending in score; it is added to. Of 10 to 24 bits one is the sign, 8 the
            exponent, the rest the mantissa.
        scores: Float32 ``(n,)``, without NaN.
    """
    for piece in pieces([scores]):
        add_to_places(histogram[0], _bins(histogram, piece))


def move_positives(histogram: NDArray[np.int64], positives: NDArray[np.float32], areas: NDArray[np.int64]) -> None:
    """Count pixels as positives that were counted as negatives.

    Args:
        histogram: Int64 ``(3, 2 ** bits)``; it is changed.
        positives: Float32 ``(P,)``, region after region.
        areas: Int64 ``(R,)``, pixels per region; they sum to P.
    """
    bins = _bins(histogram, positives)
    add_to_places(histogram[0], bins, -1)
    add_to_places(histogram[1], bins)
    add_to_places(histogram[2], bins, np.repeat((SHARE + areas // 2) // areas, areas))


def _bins(histogram: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Bins of scores."""
    return (to_ordered(scores) >> np.uint32(33 - histogram.shape[1].bit_length())).view(np.int32)
