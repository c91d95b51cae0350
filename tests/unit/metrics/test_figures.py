# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import math

import brute_force
import numpy as np
import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from destseg_anomalib.metrics import instance_average_precision, levels, negatives
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFigures, PixelFiguresMetric


def figures_of(preds: torch.Tensor, target: torch.Tensor, bits: int | None = None) -> PixelFigures:
    metric = PixelFiguresMetric(bits=bits)
    metric.update(preds, target)
    return metric.compute()


def random_set(seed: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs and scores that take the given number of values, some of them negative."""
    rng = np.random.default_rng(seed)
    target = np.zeros((3, 10, 11), dtype=bool)
    for _ in range(4):
        image, y, x = rng.integers(0, [3, 9, 9])
        target[image, y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = True
    preds = np.round(levels * (rng.standard_normal(target.shape) + target)) / levels
    return torch.from_numpy(preds.astype(np.float32)), torch.from_numpy(target)


@pytest.fixture(params=[2, 19], ids=["coarse", "fine"])  # most scores sorted, most scores binned
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "BIN_BITS", request.param)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 10_000]))
def test_figures_equal_scikit_learn_and_the_brute_force_ties_included(counted: None, seed: int, levels: int) -> None:
    preds, target = random_set(seed, levels)
    figures = figures_of(preds, target)
    flat, labels = preds.numpy().ravel(), target.numpy().ravel()
    precision, recall, _ = precision_recall_curve(labels, flat)
    f1 = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-30))
    assert figures.auroc == pytest.approx(roc_auc_score(labels, flat), abs=1e-9)
    assert figures.average_precision == pytest.approx(average_precision_score(labels, flat), abs=1e-9)
    assert figures.best_f1 == pytest.approx(f1, abs=1e-9)
    assert figures.per_region_overlap == pytest.approx(brute_force.pro(preds.numpy(), target.numpy()), abs=1e-9)
    assert mean_precision(figures.curve.precision) == brute_force.iap(preds.numpy(), target.numpy())


def test_pro_equals_anomalibs_on_scores_without_ties() -> None:
    preds, target = random_set(7, 10_000)
    theirs = _AUPRO()
    theirs.update(preds, target)
    assert figures_of(preds, target).per_region_overlap == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_counting_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    preds, target = random_set(3, 2)  # ties across the ends of blocks
    whole = figures_of(preds, target)
    monkeypatch.setattr(levels, "BLOCK", 5)
    blocks = figures_of(preds, target)
    for name in ("auroc", "average_precision", "per_region_overlap", "best_f1"):
        assert getattr(blocks, name) == pytest.approx(getattr(whole, name), abs=1e-12)
    for ours, expected in zip(blocks.curve, whole.curve, strict=True):
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("clamped", [False, True])
def test_binned_figures_are_close_and_hold_the_exact_curve_between_bounds(clamped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(10, 32, 32)
    target[::2, 8:16, 8:20] = 1
    preds = torch.rand(10, 32, 32, generator=generator) * 0.7 + 0.3 * target
    if clamped:  # as by anomalib's post-processor: large ties at zero and one
        preds = (2 * preds - 0.5).clamp(0, 1)
    exact, binned = figures_of(preds, target), figures_of(preds, target, bits=18)
    for name in ("auroc", "average_precision", "per_region_overlap", "best_f1"):
        assert getattr(binned, name) == pytest.approx(getattr(exact, name), abs=2e-3)
    assert np.all(binned.curve.lower <= exact.curve.precision)
    assert np.all(exact.curve.precision <= binned.curve.upper)


def test_iap_of_the_figures_is_that_of_the_metric() -> None:
    preds, target = random_set(11, 10_000)
    curve = figures_of(preds, target).curve
    assert mean_precision(curve.precision) == instance_average_precision(preds, target).item()
    assert precision_at(curve.precision, 0.9) == curve.precision[len(curve.scores) // 10]


@pytest.mark.parametrize("bits", [None, 18])
def test_a_set_without_regions_has_no_pixel_figures(bits: int | None) -> None:
    with pytest.warns(UserWarning, match="no region"):
        figures = figures_of(torch.rand(2, 4, 4), torch.zeros(2, 4, 4), bits)
    assert all(map(math.isnan, figures[:4]))
    assert math.isnan(mean_precision(figures.curve.precision))


def test_a_set_without_background_keeps_the_figures_that_need_none() -> None:
    with pytest.warns(UserWarning, match="no background"):
        figures = figures_of(torch.rand(2, 4, 4), torch.ones(2, 4, 4))
    assert math.isnan(figures.auroc)
    assert math.isnan(figures.per_region_overlap)
    assert figures.average_precision == figures.best_f1 == mean_precision(figures.curve.precision) == 1


def test_a_constant_map_is_chance() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, :2, :4] = 1
    figures = figures_of(torch.zeros(1, 8, 8), target)
    assert figures.auroc == 0.5
    assert figures.average_precision == 1 / 8
    assert figures.per_region_overlap == pytest.approx(0.15)


def test_bounded_memory_does_not_grow_with_normal_images() -> None:
    metric = PixelFiguresMetric(bits=18)
    for _ in range(3):
        metric.update(torch.rand(4, 16, 16), torch.zeros(4, 16, 16))
    assert sum(chunk.numel() for chunk in (*metric.negatives, *metric.positives)) == 0
    assert metric.histogram.sum() == 3 * 4 * 256


@pytest.mark.parametrize("bits", [None, 18])
def test_figures_within_a_window_are_those_of_the_cut_out_window(bits: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(4, 20, 30, generator=generator), torch.rand(4, 20, 30, generator=generator) > 0.8
    masks[1] = False
    inside = np.zeros((20, 30), bool)
    inside[3:17, 5:22] = True
    whole, cut = PixelFiguresMetric(bits), PixelFiguresMetric(bits)
    whole.update(maps, masks & torch.from_numpy(inside), inside=inside)
    cut.update(maps[:, 3:17, 5:22], masks[:, 3:17, 5:22])
    for one, other in zip(whole.compute()[:4], cut.compute()[:4], strict=True):
        assert one == other
    np.testing.assert_array_equal(whole.compute().curve.precision, cut.compute().curve.precision)
