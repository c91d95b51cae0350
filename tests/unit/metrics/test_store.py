# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import gc

import psutil
import pytest
import torch

from destseg_anomalib.metrics.figures import PixelFiguresMetric


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
    # One evaluation holds 3 MB of scores or 2 MB of counts; what the allocator keeps does not add up.
    assert after[-1] - after[2] < 6e6


def test_exact_scores_take_four_bytes_a_pixel() -> None:
    metric = PixelFiguresMetric()
    target = torch.zeros(4, 1, 64, 64)
    target[0, 0, :8] = 1
    metric.update(torch.rand(4, 1, 64, 64), target)
    stored = sum(chunk.numel() * chunk.element_size() for chunk in (*metric.negatives, *metric.positives))
    assert stored == 4 * target.numel()
    assert sum(chunk.numel() * chunk.element_size() for chunk in (*metric.areas, *metric.boxes)) == 8 + 16


def test_moving_or_casting_a_metric_keeps_its_figures() -> None:
    metric = PixelFiguresMetric()
    metric.update(torch.rand(2, 8, 8), torch.eye(8).expand(2, 8, 8))
    expected = metric.compute()
    moved = metric.to("cpu").half()
    assert moved.compute().auroc == expected.auroc
