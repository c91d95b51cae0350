# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Counting background pixels above thresholds: exactly, or from a histogram of fixed size."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from destseg_anomalib.metrics.ordering import from_ordered, to_ordered

PIECE = 1 << 16  # scores binned at a time, so that what is made of them stays in the cache
CELL_BITS = 16  # lower half of a score's integer: NumPy sorts integers of 16 bits by radix
LOWEST, HIGHEST = to_ordered(np.array([-np.inf, np.inf], dtype=np.float32)).astype(np.int64)


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


def sort_by_cells(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sort scores by the upper half of their ordered integers, the *cell*; within a cell they are in no order.

    Integers of 16 bits are sorted by radix, in a fraction of the time that the whole scores would take.

    Args:
        scores: Float32 ``(n,)``, without NaN.

    Returns:
        Float32 ``(n,)``.

    Example:
        >>> import numpy as np
        >>> sort_by_cells(np.array([3, -1, 2], dtype=np.float32)).tolist()
        [-1.0, 2.0, 3.0]
    """
    return scores.take(np.argsort((to_ordered(scores) >> np.uint32(CELL_BITS)).astype(np.uint16), kind="stable"))


class ExactNegatives:
    """Background scores, kept one by one.

    Args:
        chunks: Float32 arrays ``(n,)``, each as of :func:`sort_by_cells`; they are read, not changed.
        sum_processes: Sums an int64 array over all processes that hold a part of the set.

    Example:
        >>> import numpy as np
        >>> negatives = ExactNegatives([np.array([1, 3], dtype=np.float32), np.array([2, 2], dtype=np.float32)])
        >>> counts = negatives.count(np.array([1, 2, 5], dtype=np.float32))
        >>> counts.at_least.tolist(), counts.above.tolist()
        ([4, 3, 0], [3, 1, 0])
    """

    at_once = 1 << 17  # a call looks into every chunk

    def __init__(
        self,
        chunks: Sequence[NDArray[np.float32]],
        sum_processes: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda counts: counts,
    ) -> None:
        self.chunks = chunks
        self.sum_processes = sum_processes
        self.size = sum(chunk.size for chunk in chunks)
        self.total = int(sum_processes(np.array([self.size], dtype=np.int64))[0])

    def count(self, thresholds: NDArray[np.float32]) -> NegativeCounts:
        """Count the negatives at each threshold.

        Args:
            thresholds: Float32 ``(U,)``, ascending, repeated or not.

        Returns:
            The counts, all int64.
        """
        keys = to_ordered(thresholds)
        cells, firsts = np.unique(keys >> np.uint32(CELL_BITS), return_index=True)
        starts, ends = self._places(cells), self._places(cells + np.uint32(1))
        counts = np.empty((2, thresholds.size), dtype=np.int64)

        def count_in(cell: int) -> None:
            part = slice(firsts[cell], firsts[cell + 1] if cell + 1 < cells.size else None)
            pieces = [chunk[a:b] for chunk, a, b in zip(self.chunks, starts[cell], ends[cell], strict=True)]
            beyond = self.size - int(ends[cell].sum())
            counts[:, part] = beyond + _count_in_cell(pieces, keys[part])

        with ThreadPoolExecutor(min(4, torch.get_num_threads())) as pool:  # NumPy does most of it without the GIL
            list(pool.map(count_in, range(cells.size)))
        at_least, above = self.sum_processes(counts)
        return NegativeCounts(at_least, at_least, at_least, above)

    def _places(self, cells: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Find where cells begin in the chunks, int64 ``(cells, chunks)``."""
        first = np.clip(cells.astype(np.int64) << CELL_BITS, LOWEST, HIGHEST + 1)  # beyond are the integers of NaN
        edges = from_ordered(first.astype(np.uint32))
        places = [chunk.searchsorted(edges) for chunk in self.chunks]
        return np.stack(places, axis=1) if places else np.empty((cells.size, 0), dtype=np.int64)


def _count_in_cell(pieces: list[NDArray[np.float32]], thresholds: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Count scores of a cell at its thresholds, given as integers, by their lower halves. Rows: at least, above."""
    lower = to_ordered(np.concatenate([np.empty(0, dtype=np.float32), *pieces])).astype(np.uint16)
    lower.sort(kind="stable")  # by radix, too
    wanted = thresholds.astype(np.uint16)
    return lower.size - np.stack([lower.searchsorted(wanted, "left"), lower.searchsorted(wanted, "right")])


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
    for start in range(0, scores.size, PIECE):
        keys = to_ordered(scores[start : start + PIECE]) >> np.uint32(32 - bits)
        np.add.at(counts, keys.astype(np.int64), 1)
    return counts
