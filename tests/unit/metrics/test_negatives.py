# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

from unittest import mock

import brute_force
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from destseg_anomalib.metrics import negatives as module
from destseg_anomalib.metrics.negatives import ExactNegatives

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, np.inf, -np.inf, SMALLEST, -SMALLEST, 1.0, 2.0]),  # ties, and the ends of the range
    st.integers(0, 30).map(lambda ulps: 1 + ulps * 2.0**-23),  # neighbours, many of them in one bin
    st.floats(width=32, allow_nan=False),
)
CONSTANT = [0.5] * 40


def float32(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def assert_exact(counts: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> None:
    assert np.array_equal(counts, brute_force.negatives_reaching(scores, thresholds))
    assert counts.dtype == np.int64


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.lists(SCORES, max_size=40), max_size=6),
    thresholds=st.lists(SCORES, max_size=40),
    bits=st.sampled_from([0, 2, 19]),
)
@example(chunks=[CONSTANT, CONSTANT], thresholds=CONSTANT, bits=19)
@example(chunks=[CONSTANT], thresholds=[0.25, 0.75], bits=2)
@example(chunks=[], thresholds=[1.0], bits=19)
@example(chunks=[[], [1.0]], thresholds=[], bits=19)
@example(chunks=[[1.0] * 20], thresholds=[-np.inf, np.inf], bits=19)
@example(chunks=[[-0.0, 0.0, SMALLEST, -SMALLEST]], thresholds=[-SMALLEST, -0.0, 0.0, SMALLEST], bits=19)
def test_exact_counts_are_those_of_one_sorted_row(
    chunks: list[list[float]], thresholds: list[float], bits: int
) -> None:
    ascending = np.unique(float32(thresholds))
    scores = [float32(chunk) for chunk in chunks]
    with mock.patch.object(module, "PIECE", 7), mock.patch.object(module, "BIN_BITS", bits):
        counts = ExactNegatives(scores).count(ascending)
    assert_exact(counts, np.concatenate([float32([]), *scores]), ascending)


@pytest.mark.parametrize("bits", [2, 21], ids=["coarse", "fine"])  # most ranks searched, most guessed
def test_exact_counts_of_many_chunks_and_thresholds(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BIN_BITS", bits)
    rng = np.random.default_rng(0)
    chunks = list(rng.standard_normal((50, 3000)).astype(np.float32).round(3))
    thresholds = np.unique(rng.standard_normal(5000).astype(np.float32).round(4))
    assert_exact(ExactNegatives(chunks).count(thresholds), np.concatenate(chunks), thresholds)


def ties(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.sort(rng.integers(-20, 20, size).astype(np.float32) / 4)


@pytest.mark.parametrize("bits", [2, 19], ids=["coarse", "fine"])
@pytest.mark.parametrize("seed", range(5))
def test_exact_counts_are_those_of_a_comparison_with_every_score(
    seed: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 50)  # several pieces in a small set
    monkeypatch.setattr(module, "BIN_BITS", bits)
    rng = np.random.default_rng(seed)
    chunks = [rng.permutation(ties(rng, size)) for size in (0, 3, 130, 40, 1)]
    thresholds = np.unique(ties(rng, 60))
    counts = ExactNegatives(chunks).count(thresholds)
    scores = np.concatenate(chunks)
    assert np.array_equal(counts[0], (scores >= thresholds[:, None]).sum(1))
    assert np.array_equal(counts[1], (scores > thresholds[:, None]).sum(1))
    assert ExactNegatives(chunks).total == 174


def test_counts_beyond_32_bits_are_exact() -> None:
    elsewhere = 1 << 32  # scores of another process, which this one must hold, too
    negatives = ExactNegatives([np.arange(5, dtype=np.float32)], lambda counts: counts + elsewhere)
    counts = negatives.count(np.array([1, 2, 2.5], dtype=np.float32))
    assert negatives.total == 5 + elsewhere
    assert (counts - elsewhere).tolist() == [[4, 3, 2], [3, 2, 2]]


def test_counting_leaves_the_stored_scores_as_they_are() -> None:
    chunk = np.array([3, 1, 2], dtype=np.float32)
    ExactNegatives([chunk]).count(np.array([0, 5], dtype=np.float32))
    assert chunk.tolist() == [3, 1, 2]


def test_no_scores_and_no_thresholds_count_nothing() -> None:
    assert ExactNegatives([]).count(np.array([1], dtype=np.float32)).tolist() == [[0], [0]]
    assert ExactNegatives([np.ones(3, np.float32)]).count(np.empty(0, np.float32)).shape == (2, 0)


@pytest.mark.parametrize("bits", [2, 19], ids=["coarse", "fine"])
def test_infinite_scores_are_ranked(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BIN_BITS", bits)
    chunk = np.array([np.inf, -np.inf, 0], dtype=np.float32)
    counts = ExactNegatives([chunk]).count(np.array([-np.inf, 0, np.inf], dtype=np.float32))
    assert counts.tolist() == [[3, 2, 1], [2, 1, 0]]
