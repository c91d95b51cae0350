# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable

import numpy as np
import pytest

from destseg_anomalib.metrics.negatives import BinnedNegatives, ExactNegatives, bin_scores, sort_by_cells
from destseg_anomalib.metrics.ordering import to_ordered

Scores = Callable[[np.random.Generator, int], np.ndarray]


def ties(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(-20, 20, size).astype(np.float32) / 4


def neighbours(rng: np.random.Generator, size: int) -> np.ndarray:
    """Scores that differ in their last bits only, on both sides of the border of a cell."""
    return (np.float32(1.5).view(np.int32) + rng.integers(-40, 40, size, dtype=np.int32)).view(np.float32)


def every_kind(rng: np.random.Generator, size: int) -> np.ndarray:
    """Numbers of every sign and exponent, with both zeros and infinities."""
    scores = rng.integers(0, 1 << 32, size, dtype=np.uint32).view(np.float32)
    scores[rng.random(size) < 0.2] = 0.0
    scores[rng.random(size) < 0.2] = -0.0
    scores[rng.random(size) < 0.2] = np.inf
    scores[rng.random(size) < 0.2] = -np.inf
    return np.nan_to_num(scores, nan=1, posinf=np.inf, neginf=-np.inf)


@pytest.mark.parametrize("draw", [ties, neighbours, every_kind])
@pytest.mark.parametrize("seed", range(5))
def test_exact_counts_are_those_of_a_comparison_with_every_score(seed: int, draw: Scores) -> None:
    rng = np.random.default_rng(seed)
    chunks = [sort_by_cells(draw(rng, size)) for size in (0, 3, 130, 40, 1)]
    thresholds = np.sort(draw(rng, 60))
    counts = ExactNegatives(chunks).count(thresholds)
    scores = np.concatenate(chunks)
    assert np.array_equal(counts.at_least, (scores >= thresholds[:, None]).sum(1))
    assert np.array_equal(counts.above, (scores > thresholds[:, None]).sum(1))
    assert counts.lower is counts.upper is counts.at_least
    assert ExactNegatives(chunks).total == 174


@pytest.mark.parametrize("draw", [ties, neighbours, every_kind])
def test_sorting_by_cells_keeps_all_scores_and_orders_the_upper_half_of_their_bits(draw: Scores) -> None:
    scores = draw(np.random.default_rng(0), 500)
    by_cells = sort_by_cells(scores)
    assert np.array_equal(np.sort(by_cells), np.sort(scores))
    assert np.array_equal(to_ordered(by_cells) >> 16, np.sort(to_ordered(scores) >> 16))


def test_counting_leaves_the_stored_scores_as_they_are() -> None:
    chunk = np.array([1.0000001, 1, 3], dtype=np.float32)
    ExactNegatives([chunk]).count(np.array([0, 1, 5], dtype=np.float32))
    assert chunk.tolist() == np.array([1.0000001, 1, 3], dtype=np.float32).tolist()


def test_no_scores_and_no_thresholds_count_nothing() -> None:
    assert ExactNegatives([]).count(np.array([1], dtype=np.float32)).at_least.tolist() == [0]
    assert ExactNegatives([np.ones(3, np.float32)]).count(np.empty(0, np.float32)).at_least.tolist() == []


@pytest.mark.parametrize("bits", [10, 14, 18, 24])
def test_bounds_of_binned_counts_hold_the_exact_count(bits: int) -> None:
    rng = np.random.default_rng(bits)
    scores = rng.standard_normal(5000).astype(np.float32)
    thresholds = np.sort(np.append(scores[:200], rng.standard_normal(200).astype(np.float32)))
    exact = ExactNegatives([sort_by_cells(scores)]).count(thresholds).at_least
    counts = BinnedNegatives(bin_scores(scores, bits)).count(thresholds)
    assert np.all(counts.lower <= exact)
    assert np.all(exact <= counts.upper)
    assert np.all((counts.lower <= counts.at_least) & (counts.at_least <= counts.upper))


def test_scores_clamped_to_zero_and_one_are_binned_exactly() -> None:
    scores = np.array([0, 0, -0.0, 1, 1], dtype=np.float32)
    counts = BinnedNegatives(bin_scores(scores, 18)).count(np.array([0, 1], dtype=np.float32))
    assert counts.at_least.tolist() == [5, 2]
