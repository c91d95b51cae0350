# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from destseg_anomalib.metrics import negatives as module
from destseg_anomalib.metrics.negatives import BinnedNegatives, ExactNegatives, bin_scores


def ties(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.sort(rng.integers(-20, 20, size).astype(np.float32) / 4)


@pytest.mark.parametrize("bits", [2, 19], ids=["coarse", "fine"])  # most scores sorted, most scores binned
@pytest.mark.parametrize("seed", range(5))
def test_exact_counts_are_those_of_a_comparison_with_every_score(
    seed: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 50)  # several pieces and blocks in a small set
    monkeypatch.setattr(module, "SORTED", 60)
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(module, "BIN_BITS", bits)
    rng = np.random.default_rng(seed)
    chunks = [rng.permutation(ties(rng, size)) for size in (0, 3, 130, 40, 1)]
    thresholds = ties(rng, 60)
    counts = ExactNegatives(chunks).count(thresholds)
    scores = np.concatenate(chunks)
    assert np.array_equal(counts.at_least, (scores >= thresholds[:, None]).sum(1))
    assert np.array_equal(counts.above, (scores > thresholds[:, None]).sum(1))
    assert counts.lower is counts.upper is counts.at_least
    assert ExactNegatives(chunks).total == 174


def test_counts_beyond_32_bits_are_exact() -> None:
    elsewhere = 1 << 32  # scores of another process, which this one must hold, too
    negatives = ExactNegatives([np.arange(5, dtype=np.float32)], lambda counts: counts + elsewhere)
    counts = negatives.count(np.array([1, 2, 2.5], dtype=np.float32))
    assert negatives.total == 5 + elsewhere
    assert (counts.at_least - elsewhere).tolist() == [4, 3, 2]
    assert (counts.above - elsewhere).tolist() == [3, 2, 2]


def test_groups_may_grow_from_round_to_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 50)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 1)
    thresholds = np.array([1, 1.01, 1.02, 1000], dtype=np.float32)  # three of them in one bin
    close = np.full(50, 1.005, dtype=np.float32)
    waiting = [np.append(close[:24], [1.0] * 6), np.append(close[:24], [500.0] * 6)]  # a few short of a group
    chunks = [*(chunk.astype(np.float32) for chunk in waiting), close[:24], close]  # they meet in later rounds
    counts = ExactNegatives(chunks).count(thresholds)
    scores = np.concatenate(chunks)
    assert np.array_equal(counts.at_least, (scores >= thresholds[:, None]).sum(1))
    assert np.array_equal(counts.above, (scores > thresholds[:, None]).sum(1))


def test_counting_leaves_the_stored_scores_as_they_are() -> None:
    chunk = np.array([3, 1, 2], dtype=np.float32)
    ExactNegatives([chunk]).count(np.array([0, 5], dtype=np.float32))
    assert chunk.tolist() == [3, 1, 2]


def test_no_scores_and_no_thresholds_count_nothing() -> None:
    assert ExactNegatives([]).count(np.array([1], dtype=np.float32)).at_least.tolist() == [0]
    assert ExactNegatives([np.ones(3, np.float32)]).count(np.empty(0, np.float32)).at_least.tolist() == []


@pytest.mark.parametrize("bits", [2, 19], ids=["coarse", "fine"])  # most scores sorted, most scores binned
def test_infinite_scores_are_ranked(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BIN_BITS", bits)
    chunk = np.array([np.inf, -np.inf, 0], dtype=np.float32)
    counts = ExactNegatives([chunk]).count(np.array([-np.inf, 0, np.inf], dtype=np.float32))
    assert counts.at_least.tolist() == [3, 2, 1]
    assert counts.above.tolist() == [2, 1, 0]


@pytest.mark.parametrize("bits", [10, 14, 18, 24])
def test_bounds_of_binned_counts_hold_the_exact_count(bits: int) -> None:
    rng = np.random.default_rng(bits)
    scores = rng.standard_normal(5000).astype(np.float32)
    thresholds = np.sort(np.append(scores[:200], rng.standard_normal(200).astype(np.float32)))
    exact = ExactNegatives([scores]).count(thresholds).at_least
    counts = BinnedNegatives(bin_scores(scores, bits)).count(thresholds)
    assert np.all(counts.lower <= exact)
    assert np.all(exact <= counts.upper)
    assert np.all((counts.lower <= counts.at_least) & (counts.at_least <= counts.upper))


def test_scores_clamped_to_zero_and_one_are_binned_exactly() -> None:
    scores = np.array([0, 0, -0.0, 1, 1], dtype=np.float32)
    counts = BinnedNegatives(bin_scores(scores, 18)).count(np.array([0, 1], dtype=np.float32))
    assert counts.at_least.tolist() == [5, 2]
