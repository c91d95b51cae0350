# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import gc

import numpy as np
import psutil
import pytest
import torch

from destseg_anomalib.metrics.figures import PixelFiguresMetric
from destseg_anomalib.metrics.levels import SHARE, add_scores


@pytest.mark.parametrize("bits", [None, 18])
def test_ten_evaluations_in_one_process_do_not_grow(bits: int | None) -> None:
    preds, target = torch.rand(12, 256, 256), torch.zeros(12, 256, 256)
    target[::2, 100:140, 80:150] = 1
    metric = PixelFiguresMetric(bits=bits)
    process = psutil.Process()
    after = []
    for _ in range(10):
        metric.reset()
        metric.update(preds, target)
        metric.compute()
        metric.reset()
        gc.collect()
        after.append(process.memory_info().rss)
    # One evaluation holds 3 MB of scores or up to 6 MB of counts; what the allocator keeps does not add up.
    assert after[-1] - after[2] < 6e6


def test_exact_scores_take_four_bytes_a_pixel() -> None:
    metric = PixelFiguresMetric()
    target = torch.zeros(4, 1, 64, 64)
    target[0, 0, :8] = 1
    metric.update(torch.rand(4, 1, 64, 64), target)
    stored = sum(chunk.numel() * chunk.element_size() for chunk in (*metric.negatives, *metric.positives))
    assert stored == 4 * target.numel()
    assert sum(chunk.numel() * chunk.element_size() for chunk in (*metric.scores, *metric.areas, *metric.boxes)) == 28


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.inference_mode])
def test_the_histograms_hold_background_positives_and_shares_apart(grad_mode: type) -> None:
    generator = torch.Generator().manual_seed(0)
    preds, target = torch.randn(5, 1, 40, 30, generator=generator), torch.zeros(5, 40, 30)
    target[1, 3:9, 4:20] = target[1, 30:, 28:] = target[3] = target[4, 0, 0] = 1
    with grad_mode():
        metric = PixelFiguresMetric(bits=18)
        metric.update(preds[:2], target[:2])
        metric.update(preds[2:], target[2:])
    for row, defective in enumerate((False, True)):
        expected = np.zeros((3, 1 << 18), dtype=np.int64)
        add_scores(expected, preds.squeeze(1)[target == defective].numpy())
        assert np.array_equal(metric.histogram[row].numpy(), expected[0])
    assert metric.histogram[2].sum().item() == pytest.approx(4 * SHARE, rel=1e-9)  # four regions


def test_bounded_memory_grows_neither_with_images_nor_with_defective_pixels() -> None:
    def stored(images: int, size: int) -> tuple[int, int]:
        """Bytes of the histograms, and of what is kept of regions: one in each image."""
        metric = PixelFiguresMetric(bits=18)
        target = torch.zeros(images, size, size)
        target[:, 1:-1, 1:-1] = 1
        metric.update(torch.rand(images, size, size), target)
        assert not metric.negatives
        assert not metric.positives
        of_regions = (*metric.scores, *metric.areas, *metric.boxes)
        return metric.histogram.nbytes, sum(tensor.nbytes for tensor in of_regions)

    assert stored(1, 8) == stored(1, 256) == (3 * 8 * 2**18, 4 + 8 + 16)
    assert stored(5, 64) == (3 * 8 * 2**18, 5 * (4 + 8 + 16))


def test_an_empty_store_has_counted_nothing() -> None:
    pixels, regions = PixelFiguresMetric(bits=18).collect()
    assert not list(pixels.levels())
    assert not regions.scores.size


def test_regions_are_the_same_whether_the_background_is_kept_or_counted() -> None:
    preds, target = torch.rand(3, 20, 20), torch.zeros(3, 20, 20)
    target[0, 5:8, 6:15] = target[0, 18:, 18:] = target[2, :, 3] = 1
    kept, counted = PixelFiguresMetric(), PixelFiguresMetric(bits=18)
    kept.update(preds, target)
    counted.update(preds, target)
    for ours, expected in zip(counted.collect()[1], kept.collect()[1], strict=True):
        assert np.array_equal(ours, expected)


def test_computing_between_updates_changes_nothing() -> None:
    preds, target = torch.rand(4, 16, 16), torch.zeros(4, 16, 16)
    target[:, 2:5, 2:9] = 1
    once, twice = PixelFiguresMetric(), PixelFiguresMetric()
    once.update(preds, target)
    twice.update(preds[:1], target[:1])
    twice.compute()
    twice.update(preds[1:], target[1:])
    for ours, expected in zip(twice.collect()[1], once.collect()[1], strict=True):
        assert np.array_equal(ours, expected)
    assert twice.compute()[:4] == once.compute()[:4]


def test_moving_or_casting_a_metric_keeps_its_figures() -> None:
    metric = PixelFiguresMetric()
    metric.update(torch.rand(2, 8, 8), torch.eye(8).expand(2, 8, 8))
    expected = metric.compute()
    moved = metric.to("cpu").half()
    assert moved.compute().auroc == expected.auroc
