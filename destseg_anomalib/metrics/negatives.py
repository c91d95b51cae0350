# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Counting background pixels above thresholds: exactly, or from a histogram of fixed size."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from destseg_anomalib.metrics.ordering import to_ordered

PIECE = 1 << 17  # scores read at a time: few enough for the cache, many enough that threads seldom wait for the GIL
SORTED = 1 << 18  # scores sorted at a time: many enough for few searches
BIN_BITS = 19  # a table of as many bins fits the cache, and few bins hold several thresholds
ROUNDS = 5  # thresholds of a bin that a score is compared with before it is sorted instead
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

    at_once = 1 << 17  # a call reads all scores that may reach its thresholds

    def __init__(
        self,
        chunks: Sequence[NDArray[np.float32]],
        sum_processes: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda counts: counts,
    ) -> None:
        self.pieces = list(_pieces(chunks))
        self.highest = [piece.max() for piece in self.pieces]
        self.sum_processes = sum_processes
        self.total = int(sum_processes(np.array([sum(chunk.size for chunk in chunks)], dtype=np.int64))[0])

    def count(self, thresholds: NDArray[np.float32]) -> NegativeCounts:
        """Count the negatives at each threshold.

        Args:
            thresholds: Float32 ``(U,)``, ascending, repeated or not.

        Returns:
            The counts, all int64.
        """
        is_new = np.append(True, thresholds[1:] != thresholds[:-1])[: thresholds.size]
        counts = self.sum_processes(self._count(thresholds[is_new]))
        at_least, above = counts if is_new.all() else counts[:, np.cumsum(is_new) - 1]
        return NegativeCounts(at_least, at_least, at_least, above)

    def _count(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count in this process. Rows are at least, above."""
        if not thresholds.size:
            return np.empty((2, 0), dtype=np.int64)
        bins, threads = _Bins(thresholds), min(4, torch.get_num_threads())
        dtype = np.int32 if self.total < 1 << 31 else np.int64
        pieces = [piece for piece, highest in zip(self.pieces, self.highest, strict=True) if highest >= thresholds[0]]
        with ThreadPoolExecutor(threads) as pool:
            shares = [pieces[first::threads] for first in range(threads)]
            return np.sum(list(pool.map(lambda share: _Tally(bins, dtype).count(share), shares)), axis=0)


class _Bins:
    """Bins so narrow that most hold no threshold and few hold several: one comparison places most scores.

    Args:
        thresholds: Float32 ``(U,)``, ascending, each once.
    """

    def __init__(self, thresholds: NDArray[np.float32]) -> None:
        self.thresholds = thresholds
        keys = to_ordered(thresholds)
        # The lower bits of keys are dropped, so that the rest tells so many bins apart.
        bits = min(BIN_BITS, thresholds.size.bit_length() + 6)
        self.dropped_bits = np.uint32(max(0, int(keys[-1] - keys[0]).bit_length() - bits))
        self.first = keys[0] >> self.dropped_bits
        bins = self.of(thresholds)
        held = np.bincount(bins)
        self.in_lower = (np.cumsum(held) - held).astype(np.int32)  # thresholds in lower bins
        self.joins = np.append(bins[1:] == bins[:-1], False)  # whether the next threshold is in the same bin

    def of(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Bins of scores between the lowest and the highest threshold."""
        return ((to_ordered(scores) >> self.dropped_bits) - self.first).astype(np.int64)


class _Tally:
    """What one thread counts.

    Args:
        bins: The thresholds and their bins; they are read, not changed.
        dtype: An integer type that holds the number of scores.
    """

    def __init__(self, bins: _Bins, dtype: type[np.signedinteger[Any]]) -> None:
        self.bins, thresholds = bins, bins.thresholds.size
        self.below = np.zeros(thresholds + 1, dtype)  # scores by the number of thresholds below them
        self.tied = np.zeros(thresholds, dtype)  # scores that equal a threshold
        self.reaching = np.zeros((2, thresholds), dtype=np.int64)  # sorted scores at least, and above each threshold

    def count(self, pieces: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
        """Count scores.

        Args:
            pieces: Float32 arrays ``(n,)``, at most ``PIECE`` scores each.

        Returns:
            Int64 ``(2, U)``, scores at least, and above each threshold.
        """
        unplaced = map(self._by_bin, _grouped(map(self._between, pieces), PIECE // 2))
        for _ in range(1, ROUNDS):
            unplaced = map(self._compare, _grouped(unplaced, PIECE // 2))
        for (scores,) in _grouped(((scores,) for scores, _ in unplaced), SORTED):
            self._sort(scores)
        highest = self.bins.thresholds[-1]
        self.below[-1] += sum(int(np.count_nonzero(piece > highest)) for piece in pieces)
        self.reaching += np.cumsum(self.below[:0:-1], dtype=np.int64)[::-1]
        self.reaching[0] += self.tied
        return self.reaching

    def _between(self, scores: NDArray[np.float32]) -> "_Arrays":
        """Pick the scores between the lowest and the highest threshold."""
        thresholds = self.bins.thresholds
        return (scores.compress((scores >= thresholds[0]) & (scores <= thresholds[-1])),)

    def _by_bin(self, group: "_Arrays") -> "_Arrays":
        """Compare each score with the lowest threshold of its bin, or of a higher one if its bin holds none."""
        (scores,) = group
        return self._compare((scores, self.bins.in_lower.take(self.bins.of(scores), mode="clip").astype(np.int64)))

    def _compare(self, group: "_Arrays") -> "_Arrays":
        """Compare each score with one threshold; return those that are higher and have another in their bin."""
        scores, below = group
        threshold = self.bins.thresholds.take(below, mode="clip")  # a `take` that checks bounds keeps the GIL
        higher = threshold < scores
        self._add(self.tied, below.compress(threshold == scores))
        again = higher & self.bins.joins.take(below, mode="clip")
        below = below + higher
        self._add(self.below, below, ~again)
        return scores.compress(again), below.compress(again)

    @staticmethod
    def _add(table: NDArray[Any], at: NDArray[np.int64], counted: NDArray[np.bool_] | bool = True) -> None:
        """Add 1 to places of a table, or only to those counted. NumPy's `add.at` would keep the GIL meanwhile."""
        counts = np.full(at.size, counted, table.dtype)
        torch.from_numpy(table).scatter_add_(0, torch.from_numpy(at), torch.from_numpy(counts))

    def _sort(self, scores: NDArray[np.float32]) -> None:
        """Sort scores and count them. NumPy sorts and searches without the GIL."""
        scores.sort()
        for start in range(0, self.reaching.shape[1], BLOCK):
            block = self.bins.thresholds[start : start + BLOCK]
            first = int(scores.searchsorted(block[0], "left"))
            stretch = scores[first : int(scores.searchsorted(block[-1], "right"))]
            left = stretch.searchsorted(block, "left")
            right = left.copy()
            if stretch.size:
                tied = np.flatnonzero(stretch.take(left, mode="clip") == block)
                right[tied] = stretch.searchsorted(block[tied], "right")
            reaching = scores.size - first
            self.reaching[0, start : start + BLOCK] += reaching - left
            self.reaching[1, start : start + BLOCK] += reaching - right


_Arrays = tuple[NDArray[Any], ...]  # of equal length


def _pieces(chunks: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Cut chunks so that what is made of a piece stays in the cache."""
    for chunk in chunks:
        for start in range(0, chunk.size, PIECE):
            yield chunk[start : start + PIECE]


def _grouped(parts: Iterator[_Arrays], least: int) -> Iterator[_Arrays]:
    """Join parts until they hold so many scores."""
    group: list[_Arrays] = []
    size = 0
    for part in parts:
        group.append(part)
        size += part[0].size
        if size >= least:
            yield _joined(group)
            group, size = [], 0
    if size:
        yield _joined(group)


def _joined(group: list[_Arrays]) -> _Arrays:
    """Concatenate parts; one alone needs no copy."""
    return group[0] if len(group) == 1 else tuple(map(np.concatenate, zip(*group, strict=True)))


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
    for piece in _pieces([scores]):
        np.add.at(counts, (to_ordered(piece) >> np.uint32(32 - bits)).astype(np.int64), 1)
    return counts
