# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Counting background pixels above thresholds, exactly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from destseg_anomalib.metrics.ordering import to_ordered

PIECE = 1 << 16  # scores read at a time: few enough for the cache, many enough that threads seldom wait for the GIL
BIN_BITS = 20  # of so many bins few hold several thresholds, and the table of them takes 4 MB
ROUNDS = 3  # thresholds that a score is compared with, after the guessed one, before it is searched for


class ExactNegatives:
    """Background scores, kept one by one.

    Args:
        chunks: Float32 arrays ``(n,)``; they are read, not changed.
        sum_processes: Sums an int64 array over all processes that hold a part of the set.

    Example:
        >>> import numpy as np
        >>> negatives = ExactNegatives([np.array([3, 1], dtype=np.float32), np.array([2, 2], dtype=np.float32)])
        >>> negatives.count(np.array([1, 2, 5], dtype=np.float32)).tolist()
        [[4, 3, 0], [3, 1, 0]]
    """

    def __init__(
        self,
        chunks: Sequence[NDArray[np.float32]],
        sum_processes: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda counts: counts,
    ) -> None:
        self.pieces = list(pieces(chunks))
        self.highest = [piece.max() for piece in self.pieces]
        self.sum_processes = sum_processes
        self.total = int(sum_processes(np.array([sum(chunk.size for chunk in chunks)], dtype=np.int64))[0])

    def count(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count the negatives at each threshold.

        Args:
            thresholds: Float32 ``(U,)``, ascending, each once.

        Returns:
            Int64 ``(2, U)``: negatives at or above, and above each threshold.
        """
        return self.sum_processes(self._count(thresholds))

    def _count(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count in this process."""
        if not thresholds.size:
            return np.empty((2, 0), dtype=np.int64)
        table, threads = _RankTable(thresholds), min(4, torch.get_num_threads())
        dtype = np.int32 if self.total < 1 << 31 else np.int64
        pieces = [piece for piece, highest in zip(self.pieces, self.highest, strict=True) if highest >= thresholds[0]]
        with ThreadPoolExecutor(threads) as pool:
            shares = [pieces[first::threads] for first in range(threads)]
            at_rank, tied = np.sum(list(pool.map(lambda share: table.count(share, dtype), shares)), axis=0)
        above = np.cumsum(at_rank[:0:-1])[::-1]
        return np.stack([above + tied[:-1], above])


class _RankTable:
    """Ranks scores among thresholds: the rank of a score is the number of thresholds below it.

    A table of bins guesses the rank: as many thresholds as lie in lower bins. That is never too high, and for most
    scores right, since few bins hold several thresholds. The others are compared with the next few thresholds, and
    what is still higher is searched for.

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
        bins = self._bins(thresholds).astype(np.int64)
        steps = bins - np.append(-1, bins[:-1])  # how many bins each threshold is above the one before
        self.guesses = np.repeat(np.arange(thresholds.size, dtype=np.int32), steps)

    def _bins(self, scores: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Bins of scores between the lowest and the highest threshold."""
        return (to_ordered(scores) >> self.dropped_bits) - self.first

    def ranks(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Ranks of scores between the lowest and the highest threshold, and which scores equal their threshold."""
        # A `take` that checks bounds would keep the GIL.
        ranks = self.guesses.take(self._bins(scores), mode="clip")
        found = self.thresholds.take(ranks, mode="clip")
        low = np.flatnonzero(found < scores)
        left, rank = scores.take(low), ranks.take(low)
        for _ in range(ROUNDS):
            rank += 1
            threshold = self.thresholds.take(rank, mode="clip")
            ranks[low], found[low] = rank, threshold
            higher = np.flatnonzero(threshold < left)
            low, left, rank = low.take(higher), left.take(higher), rank.take(higher)
        ranks[low] = self.thresholds.searchsorted(left)
        found[low] = self.thresholds.take(ranks.take(low), mode="clip")
        return ranks, found == scores

    def count(self, pieces: Sequence[NDArray[np.float32]], dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
        """Count scores by rank.

        Args:
            pieces: Float32 arrays ``(n,)``.
            dtype: An integer type that holds the number of scores.

        Returns:
            Integers ``(2, U + 1)``: how many scores have each rank, and how many of those equal the threshold of that
            rank. Scores below all thresholds are not counted.
        """
        lowest, highest = self.thresholds[0], self.thresholds[-1]
        at_rank, tied = counts = np.zeros((2, self.thresholds.size + 1), dtype)
        for scores in _grouped(piece.compress((piece >= lowest) & (piece <= highest)) for piece in pieces):
            ranks, is_tied = self.ranks(scores)
            add_to_places(at_rank, ranks)
            add_to_places(tied, ranks.compress(is_tied))
        at_rank[-1] += sum(np.count_nonzero(piece > highest) for piece in pieces)
        return counts


def pieces(chunks: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Cut chunks so that what is made of a piece stays in the cache."""
    for chunk in chunks:
        for start in range(0, chunk.size, PIECE):
            yield chunk[start : start + PIECE]


def _grouped(parts: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Join parts of pieces until they are worth a call: most hold few of the scores between two thresholds."""
    group: list[NDArray[np.float32]] = []
    size = 0
    for part in parts:
        group.append(part)
        size += part.size
        if size >= PIECE // 2:
            yield np.concatenate(group)
            group, size = [], 0
    if size:
        yield np.concatenate(group)


def add_to_places(table: NDArray[Any], places: NDArray[Any], number: int | NDArray[Any] = 1) -> None:
    """Add to places of a table, each time that a place is named. NumPy's `add.at` would keep the GIL meanwhile.

    Args:
        table: Integers ``(U,)``; it is added to.
        places: Int32 or int64 ``(n,)``, in [0, U).
        number: What to add, the same for all places or ``(n,)``.
    """
    sums = torch.from_numpy(table)
    sums.index_add_(0, torch.from_numpy(places), torch.as_tensor(number, dtype=sums.dtype).expand(places.size))
