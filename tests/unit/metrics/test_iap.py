# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import pickle
from fractions import Fraction
from pathlib import Path

import brute_force
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from destseg_anomalib.metrics import IAP, IAPAtRecall, instance_average_precision, precision_at_instance_recall

RECALLS = [Fraction(k, 10) for k in range(11)]


def as_batch(preds: torch.Tensor, target: torch.Tensor) -> ImageBatch:
    image = torch.zeros(len(preds), 3, *preds.shape[-2:])
    return ImageBatch(image=image, anomaly_map=preds, gt_mask=target)


@st.composite
def small_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Sets with at least one region: ties, one-pixel regions, diagonals, full and empty masks, scores of any sign."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)))
    few_values = st.integers(-2, 2).map(lambda value: value / 2)
    any_values = st.floats(-1e3, 1e3, width=32)
    preds = draw(arrays(np.float32, shape, elements=draw(st.sampled_from([few_values, any_values]))))
    density = draw(st.sampled_from([0.1, 0.5, 1.0]))
    target = draw(arrays(np.float32, shape, elements=st.floats(0, 1, width=32))) <= density
    target[0, 0, 0] = True
    return preds, target


@settings(max_examples=1000, deadline=None)
@given(small_sets(), st.sampled_from(RECALLS))
def test_both_figures_equal_the_definition_exactly(data: tuple[np.ndarray, np.ndarray], recall: Fraction) -> None:
    preds, target = data
    tensors = torch.from_numpy(preds), torch.from_numpy(target)
    assert instance_average_precision(*tensors).item() == brute_force.iap(preds, target)
    assert precision_at_instance_recall(*tensors, float(recall)).item() == brute_force.iap_at(preds, target, recall)


@settings(max_examples=100, deadline=None)
@given(small_sets(), st.sampled_from(RECALLS[:-1]))
def test_the_overlap_is_exact_for_decimal_fractions(data: tuple[np.ndarray, np.ndarray], overlap: Fraction) -> None:
    preds, target = data
    value = instance_average_precision(torch.from_numpy(preds), torch.from_numpy(target), float(overlap))
    assert value.item() == brute_force.iap(preds, target, overlap)


def test_figures_of_the_official_code(shared: Path) -> None:
    cases = np.load(shared / "fixtures" / "iap_reference.npz")
    for images, all_preds, all_target, expected in zip(
        cases["images"], cases["preds"], cases["target"], cases["expected"], strict=True
    ):
        preds, target = torch.from_numpy(all_preds[:images]), torch.from_numpy(all_target[:images])
        ours = [
            instance_average_precision(preds, target),
            precision_at_instance_recall(preds, target, 0.9),
            precision_at_instance_recall(preds, target, 0.5),
            instance_average_precision(preds, target, overlap=0.3),
            precision_at_instance_recall(preds, target, 0.9, overlap=0.3),
        ]
        assert np.abs(np.array(ours, dtype=float) - expected).max() <= 1e-7


class TestFaultsOfTheOfficialCode:
    """What the official implementation gets wrong."""

    def test_a_constant_map_is_as_precise_as_chance_whatever_the_constant(self) -> None:
        target = torch.zeros(2, 8, 8)
        target[0, :2, :4] = 1
        for constant in (0.0, -3.0, 5.0):
            assert instance_average_precision(torch.full((2, 8, 8), constant), target) == 8 / 128

    def test_a_mask_without_background_keeps_its_region(self) -> None:
        preds = torch.tensor([[[0.9, 0.9]], [[0.1, 0.5]]])
        target = torch.tensor([[[1, 1]], [[1, 0]]])
        assert instance_average_precision(preds, target).item() == pytest.approx((3 / 4 + 1) / 2)

    def test_without_a_region_the_figures_are_nan_with_a_warning(self) -> None:
        empty = torch.zeros(2, 4, 4)
        for figure in (instance_average_precision, precision_at_instance_recall):
            with pytest.warns(UserWarning, match="no region"):
                assert figure(empty, empty).isnan()

    def test_nan_predictions_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="NaN"):
            instance_average_precision(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2))

    @pytest.mark.parametrize("recall", [0.1, 0.2])
    def test_low_recalls_hit_the_right_region(self, recall: float) -> None:
        target = torch.zeros(10, 1, 4)
        target[:, 0, 0] = 1  # ten regions of one pixel
        preds = torch.rand(10, 1, 4, generator=torch.Generator().manual_seed(1))
        expected = brute_force.iap_at(preds.numpy(), target.bool().numpy(), Fraction(round(recall * 10), 10))
        assert precision_at_instance_recall(preds, target, recall).item() == expected


class TestAsAnomalibMetric:
    """IAP and IAPAtRecall in anomalib's hands."""

    def test_they_are_logged_under_the_names_of_the_papers(self) -> None:
        assert IAP().name == "IAP"
        assert IAPAtRecall().name == "IAP@90"
        assert IAPAtRecall(recall=0.995, prefix="pixel_").name == "pixel_IAP@99.5"

    def test_batches_of_different_sizes_add_up_to_one_set(self) -> None:
        generator = torch.Generator().manual_seed(0)
        metric, at_recall = IAP(), IAPAtRecall(recall=0.5)
        flat = []
        for shape in [(2, 4, 6), (1, 3, 2), (3, 5, 5)]:
            preds = torch.rand(shape, generator=generator)
            target = (torch.rand(shape, generator=generator) > 0.8).to(torch.uint8)
            metric.update(as_batch(preds, target))
            at_recall.update(as_batch(preds, target))
            flat += [(p, t) for p, t in zip(preds, target, strict=True)]
        # The same images on one canvas, outside of which nothing is predicted or defective, have the same precision.
        preds = torch.full((len(flat), 6, 8), -1.0)
        target = torch.zeros(len(flat), 6, 8)
        for index, (p, t) in enumerate(flat):
            preds[index, : p.shape[0], : p.shape[1]], target[index, : p.shape[0], : p.shape[1]] = p, t
        assert metric.compute() == instance_average_precision(preds, target)
        assert at_recall.compute() == precision_at_instance_recall(preds, target, 0.5)

    def test_a_batch_without_masks_is_an_error_or_left_out(self) -> None:
        batch = ImageBatch(image=torch.zeros(1, 3, 4, 4), anomaly_map=torch.zeros(1, 4, 4))
        with pytest.raises(ValueError, match="gt_mask"):
            IAP().update(batch)
        lenient = IAP(strict=False)
        lenient.update(batch)
        assert lenient.compute() is None

    def test_computing_twice_and_going_on_changes_nothing(self) -> None:
        preds, target = torch.rand(4, 6, 6), torch.eye(6).expand(4, 6, 6)
        metric = IAP()
        metric.update(as_batch(preds[:2], target[:2]))
        metric.compute()
        metric.update(as_batch(preds[2:], target[2:]))
        assert metric.compute() == metric.compute() == instance_average_precision(preds, target)

    def test_forward_gives_the_figure_of_the_batch_and_keeps_the_set(self) -> None:
        preds, target = torch.rand(4, 6, 6), torch.eye(6).expand(4, 6, 6)
        for bits in (None, 18):
            metric = IAP(bits=bits)
            metric(as_batch(preds[:2], target[:2]))
            for figure_of, first in ((lambda m: m(as_batch(preds[2:], target[2:])), 2), (IAP.compute, 0)):
                figure, exact = figure_of(metric), instance_average_precision(preds[first:], target[first:])
                assert figure == exact or bits
                assert metric.bracket[0] <= exact <= metric.bracket[1]

    def test_reset_empties_the_store(self) -> None:
        metric = IAP()
        metric.update(as_batch(torch.rand(1, 4, 4), torch.eye(4)[None]))
        metric.reset()
        assert not metric.negatives
        assert not metric.positives
        assert not metric.areas

    def test_maps_are_copied(self) -> None:
        preds, target = torch.rand(1, 4, 4), torch.eye(4)[None]
        expected = instance_average_precision(preds, target)
        metric = IAP()
        metric.update(as_batch(preds, target))
        preds.zero_()
        assert metric.compute() == expected

    def test_they_can_be_pickled_with_their_state(self) -> None:
        metric = IAPAtRecall(recall=0.5)
        metric.update(as_batch(torch.rand(1, 4, 4), torch.eye(4)[None]))
        assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()

    @pytest.mark.parametrize(
        ("arguments", "message"), [({"overlap": 1.0}, "overlap"), ({"recall": 1.1}, "recall"), ({"bits": 8}, "bits")]
    )
    def test_arguments_out_of_range_are_refused(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            IAPAtRecall(**arguments)


class TestBounded:
    """Background counted in bins."""

    @settings(max_examples=1000, deadline=None)
    @given(small_sets(), st.sampled_from([10, 18]), st.sampled_from(RECALLS))
    def test_the_bracket_is_never_violated(
        self, data: tuple[np.ndarray, np.ndarray], bits: int, recall: Fraction
    ) -> None:
        preds, target = map(torch.from_numpy, data)
        batch = as_batch(preds, target)
        for metric, exact in (
            (IAP(bits=bits), instance_average_precision(preds, target)),
            (IAPAtRecall(float(recall), bits=bits), precision_at_instance_recall(preds, target, float(recall))),
        ):
            metric.update(batch)
            value = metric.compute()
            lower, upper = metric.bracket
            assert lower <= exact <= upper
            assert lower <= value <= upper

    def test_eighteen_bits_are_close_on_smooth_maps(self) -> None:
        generator = torch.Generator().manual_seed(0)
        target = torch.zeros(20, 64, 64)
        target[::2, 20:34, 8:30] = 1
        noise = torch.nn.functional.interpolate(torch.randn(20, 1, 8, 8, generator=generator), 64, mode="bilinear")[
            :, 0
        ]
        preds = torch.sigmoid(noise + 2 * target - 3)
        metric = IAP(bits=18)
        metric.update(as_batch(preds, target))
        exact = instance_average_precision(preds, target).item()
        assert metric.compute().item() == pytest.approx(exact, abs=1e-4)
        assert metric.bracket[0] <= exact <= metric.bracket[1] < metric.bracket[0] + 5e-3

    def test_without_bits_the_bracket_is_the_figure(self) -> None:
        metric = IAP()
        metric.update(as_batch(torch.rand(1, 4, 4), torch.eye(4)[None]))
        value = metric.compute().item()
        assert metric.bracket == (value, value)


def test_the_plot_shows_both_figures() -> None:
    metric = IAP()
    metric.update(as_batch(torch.rand(2, 8, 8), torch.eye(8).expand(2, 8, 8)))
    figure, ax = metric.plot()
    labels = ax.get_legend_handles_labels()[1]
    assert labels[0] == f"IAP = {metric.compute():.3f}"
    assert labels[1].startswith("IAP@90 = ")
    assert figure is not None
    assert metric.plot(ax=ax)[0] is None


def test_a_plot_without_regions_is_refused() -> None:
    metric = IAP()
    metric.update(as_batch(torch.rand(1, 4, 4), torch.zeros(1, 4, 4)))
    with pytest.warns(UserWarning, match="no region"), pytest.raises(ValueError, match="no region to plot"):
        metric.plot()
