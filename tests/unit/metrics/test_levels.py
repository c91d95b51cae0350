# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from destseg_anomalib.metrics import levels as module
from destseg_anomalib.metrics.curves import auroc, average_precision, best_f1, per_region_overlap
from destseg_anomalib.metrics.levels import SHARE, BinnedPixels, ExactPixels, add_scores, move_positives
from destseg_anomalib.metrics.negatives import ExactNegatives
from destseg_anomalib.metrics.ordering import from_ordered, to_ordered

SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, np.inf, -np.inf, 1.0, 2.0]),  # ties, and the ends of the range
    st.integers(0, 30).map(lambda ulps: 1 + ulps * 2.0**-23),  # neighbours, many of them in one bin
    st.floats(width=32, allow_nan=False),
)


def float32(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def exact(positives: np.ndarray, areas: np.ndarray, negatives: np.ndarray) -> ExactPixels:
    return ExactPixels(positives, areas, ExactNegatives([negatives]))


def binned(positives: np.ndarray, areas: np.ndarray, negatives: np.ndarray, bits: int) -> BinnedPixels:
    histogram = np.zeros((3, 1 << bits), dtype=np.int64)
    add_scores(histogram, np.concatenate([positives, negatives]))
    move_positives(histogram, positives, areas)
    return BinnedPixels(histogram, areas.size)


@st.composite
def small_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    areas = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    positives = draw(st.lists(SCORES, min_size=sum(areas), max_size=sum(areas)))
    return float32(positives), np.array(areas), float32(draw(st.lists(SCORES, max_size=40)))


@settings(max_examples=200, deadline=None)
@given(small_sets(), st.sampled_from([None, 10, 18, 24]))
@example((float32([-np.inf, np.inf]), np.array([2]), float32([-np.inf, np.inf])), 10)
def test_levels_count_what_lies_in_and_above_them(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], bits: int | None
) -> None:
    positives, areas, negatives = data
    pixels = exact(*data) if bits is None else binned(*data, bits)
    with mock.patch.object(module, "BLOCK", 3):
        blocks = list(pixels.levels())
    weights = np.repeat(1 / (areas * areas.size), areas)
    true, false = to_ordered(positives).astype(np.int64), to_ordered(negatives).astype(np.int64)
    width = 1 if bits is None else 1 << (32 - bits)
    expected = sorted({int(key) // width * width for key in true})
    assert [int(first) for levels, _ in blocks for first in levels.first] == expected
    for levels, shares in blocks:
        assert (levels.width, levels.positives, levels.negatives) == (width, positives.size, negatives.size)
        for first, share, *counts in zip(levels.first.astype(np.int64), shares, *levels[2:6], strict=True):
            inside, above = (true >= first) & (true < first + width), true >= first + width
            false_inside, false_above = (false >= first) & (false < first + width), false >= first + width
            assert counts == [inside.sum(), above.sum(), false_inside.sum(), false_above.sum()]
            assert share == pytest.approx(weights[inside].sum(), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(small_sets())
def test_counts_at_some_scores_are_those_of_their_levels(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    keys = to_ordered(data[0][::2])
    ((everything, _),) = exact(*data).levels()
    some = exact(*data).at(keys)
    at = everything.first.searchsorted(some.first)
    assert set(some.first) == set(keys)
    for ours, expected in zip(some[2:6], everything[2:6], strict=True):
        assert np.array_equal(ours, expected[at])


def test_scores_clamped_to_zero_and_one_give_the_exact_figures() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = (rng.normal(mean, 1, 400).clip(0, 1).round().astype(np.float32) for mean in (0.9, 0.3))
    areas = np.array([100, 250, 50])
    ((ours, our_shares),) = binned(positives, areas, negatives, 18).levels()
    ((theirs, their_shares),) = exact(positives, areas, negatives).levels()
    assert from_ordered(ours.first).tolist() == [0, 1]
    assert auroc(ours) == auroc(theirs)
    assert best_f1(ours) == best_f1(theirs)
    assert average_precision(ours) == pytest.approx(average_precision(theirs), abs=2e-3)
    assert per_region_overlap(ours, our_shares) == pytest.approx(per_region_overlap(theirs, their_shares), abs=1e-9)


def test_the_shares_of_a_large_region_are_whole_numbers_close_to_its_part() -> None:
    histogram = np.zeros((3, 1 << 10), dtype=np.int64)
    move_positives(histogram, np.ones(3_000_000, dtype=np.float32), np.array([2_999_999, 1]))
    assert histogram[2].max() == pytest.approx(2 * SHARE, rel=1e-6)


def test_without_positives_figures_are_undefined() -> None:
    nothing = float32([])
    levels = exact(nothing, nothing.astype(np.int64), float32([0.1, 0.2])).at(to_ordered(nothing))
    assert np.isnan([auroc(levels), average_precision(levels), best_f1(levels)]).all()
