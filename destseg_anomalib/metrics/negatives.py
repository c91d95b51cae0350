# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Counting background pixels above thresholds: exactly, or from a histogram of fixed size."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from destseg_anomalib.metrics.ordering import to_ordered

GROUP = 1 << 20  # pixels sorted at a time: many enough for few searches, small beside the store
FEW = 1 << 12  # thresholds up to which finding each score among them is faster than sorting the scores
BLOCK = 1 << 15  # thresholds searched at a time: neighbours share a stretch of the sorted group that fits the cache


class NegativeCounts(NamedTuple):
    """How many negatives reach each of U thresholds.

    Attributes:
        at_least: ``(U,)``, negatives at or above the threshold; interpolated within a bin if counted in bins.
        lower: Int64 ``(U,)``, a sure lower bound of that count; the count itself if it is exact.
        upper: Int64 ``(U,)``, a sure upper bound of that count; the count itself if it is exact.
        above: Int64 ``(U,)``, negatives greater than the threshold; those in higher bins if counted in bins.
    """

    at_least: NDArray[np.int64] | NDArray[np.float64]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    above: NDArray[np.int64]

    def take(self, at: slice | NDArray[np.int64]) -> "NegativeCounts":
        """Pick the counts of some thresholds."""
        return NegativeCounts(self.at_least[at], self.lower[at], self.upper[at], self.above[at])


class Negatives(Protocol):
    """The background pixels of a test set.

    Attributes:
        total: How many there are.
        at_once: How many thresholds are best counted in one call: each takes memory, each call takes time.
    """

    total: int
    at_once: int

    def count(self, thresholds: NDArray[np.float32]) -> NegativeCounts:
        """Count the negatives at each of the ascending thresholds."""


class ExactNegatives:
    """Background scores, kept one by one.

    Args:
        chunks: Float32 arrays ``(n,)``; they are read, not changed.
        sum_processes: Sums an int64 array over all processes that hold a part of the set.

    Example:
        >>> import numpy as np
        >>> negatives = ExactNegatives([np.array([3, 1], dtype=np.float32), np.array([2, 2], dtype=np.float32)])
        >>> counts = negatives.count(np.array([1, 2, 5], dtype=np.float32))
        >>> counts.at_least.tolist(), counts.above.tolist()
        ([4, 3, 0], [3, 1, 0])
    """

    at_once = 1 << 18  # a call reads all scores

    def __init__(
        self,
        chunks: Sequence[NDArray[np.float32]],
        sum_processes: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda counts: counts,
    ) -> None:
        self.chunks = chunks
        self.sum_processes = sum_processes
        self.total = int(sum_processes(np.array([sum(chunk.size for chunk in chunks)], dtype=np.int64))[0])

    def count(self, thresholds: NDArray[np.float32]) -> NegativeCounts:
        """Count the negatives at each threshold.

        Args:
            thresholds: Float32 ``(U,)``, ascending, repeated or not.

        Returns:
            The counts, all int64.
        """
        few = thresholds.size <= FEW
        at_least, above = self.sum_processes(self._search(thresholds) if few else self._sort(thresholds))
        return NegativeCounts(at_least, at_least, at_least, above)

    def _search(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count at few thresholds: find each score among them. Rows are at least, above."""
        beyond = np.nextafter(thresholds, np.float32(np.inf))  # to lie above a score is to reach the next float32
        edges = np.unique(np.concatenate([thresholds, beyond]))
        workers = torch.get_num_threads()
        with ThreadPoolExecutor(workers) as pool:
            tallies = list(pool.map(lambda first: _tally(self.chunks[first::workers], edges), range(workers)))
        reaching = np.cumsum(np.sum(tallies, axis=0)[::-1])[::-1][1:]  # scores at or above each edge
        counts = np.stack([reaching[edges.searchsorted(thresholds)], reaching[edges.searchsorted(beyond)]])
        counts[1, np.isposinf(thresholds)] = 0
        return counts

    def _sort(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count at many thresholds: sort the scores. Rows are at least, above."""
        counts = np.zeros((2, thresholds.size), dtype=np.int64)
        # Order matters only between the thresholds; what lies above them is a number, what lies below is nothing.
        counts += sum(int(np.count_nonzero(chunk > thresholds[-1])) for chunk in self.chunks)
        groups = self._between(thresholds[0], thresholds[-1])
        lock, workers = Lock(), min(4, torch.get_num_threads())
        with ThreadPoolExecutor(workers) as pool:
            while some := list(islice(groups, workers)):  # not all at once, for they are copies
                list(pool.map(lambda group: _add_counts(group, thresholds, counts, lock), some))
        return counts

    def _between(self, lowest: np.float32, highest: np.float32) -> Iterator[list[NDArray[np.float32]]]:
        """Copy the scores in a range, in groups worth a sort."""
        group: list[NDArray[np.float32]] = []
        size = 0
        for chunk in self.chunks:
            group.append(chunk[(chunk >= lowest) & (chunk <= highest)])
            size += group[-1].size
            if size >= GROUP:
                yield group
                group, size = [], 0
        yield group


def _tally(chunks: Sequence[NDArray[np.float32]], edges: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count scores by how many of the ascending edges they reach, int64 ``(E + 1,)``."""
    tally = np.zeros(edges.size + 1, dtype=np.int64)
    for chunk in chunks:
        tally += np.bincount(edges.searchsorted(chunk, "right"), minlength=tally.size)
    return tally


def _add_counts(
    group: list[NDArray[np.float32]], thresholds: NDArray[np.float32], counts: NDArray[np.int64], lock: Lock
) -> None:
    """Add one group's share to the counts. NumPy sorts and searches without the GIL."""
    between = np.concatenate([np.empty(0, np.float32), *group])
    between.sort()
    for start in range(0, thresholds.size, BLOCK):
        block = thresholds[start : start + BLOCK]
        first = int(between.searchsorted(block[0], "left"))
        stretch = between[first : int(between.searchsorted(block[-1], "right"))]
        left = stretch.searchsorted(block, "left")
        right = left.copy()
        if stretch.size:
            tied = np.flatnonzero(stretch.take(left, mode="clip") == block)
            right[tied] = stretch.searchsorted(block[tied], "right")
        reaching = between.size - first
        with lock:
            counts[0, start : start + BLOCK] += reaching - left
            counts[1, start : start + BLOCK] += reaching - right


class BinnedNegatives:
    """Background scores, counted in bins of the top bits of their ordered integers.

    Args:
        histogram: Int64 ``(2 ** bits,)``, see :func:`bin_scores`.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.0, 0.5, 0.5, 2.0], dtype=np.float32)
        >>> counts = BinnedNegatives(bin_scores(scores, bits=12)).count(np.array([0.5, 1.0], dtype=np.float32))
        >>> counts.lower.tolist(), counts.upper.tolist()
        ([1, 1], [3, 1])
    """

    at_once = 1 << 15  # a call reads its own bins only

    def __init__(self, histogram: NDArray[np.int64]) -> None:
        self.reaching = np.append(np.cumsum(histogram[::-1])[::-1], 0)
        self.total = int(self.reaching[0])
        self.dropped_bits = 33 - histogram.size.bit_length()

    def count(self, thresholds: NDArray[np.float32]) -> NegativeCounts:
        """Count the negatives at each threshold.

        Args:
            thresholds: Float32 ``(U,)``, ascending, repeated or not.

        Returns:
            The counts; ``at_least`` takes the pixels of a bin as evenly spread.
        """
        keys = to_ordered(thresholds)
        bins = (keys >> np.uint32(self.dropped_bits)).astype(np.int64)
        lower, upper = self.reaching[bins + 1], self.reaching[bins]
        part = (keys & np.uint32((1 << self.dropped_bits) - 1)) / float(1 << self.dropped_bits)
        return NegativeCounts(upper - (upper - lower) * part, lower, upper, lower)


def bin_scores(scores: NDArray[np.float32], bits: int) -> NDArray[np.int64]:
    """Count scores in bins of the top ``bits`` bits of their ordered integers.

    Args:
        scores: Float32 ``(n,)``, without NaN.
        bits: Number of bits, 10 to 24: one for the sign, 8 for the exponent, the rest for the mantissa.

    Returns:
        Int64 ``(2 ** bits,)``, ascending in score.

    Example:
        >>> import numpy as np
        >>> bin_scores(np.array([0.1, 0.1, 7.0], dtype=np.float32), bits=18).max()
        np.int64(2)
    """
    counts = np.zeros(1 << bits, dtype=np.int64)
    for start in range(0, scores.size, GROUP):  # bincount copies its input to int64
        keys = to_ordered(scores[start : start + GROUP]) >> np.uint32(32 - bits)
        counts += np.bincount(keys, minlength=1 << bits)
    return counts
