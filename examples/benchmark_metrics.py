# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Time and memory of the pixel metrics, ours beside a plain loop and beside anomalib's metrics, in one run.

    python examples/benchmark_metrics.py --sets 83x256 167x256

Every measurement runs in a process of its own, so that its peak memory is its own; the inputs are mapped from disk and
count for nobody. ``--sets 83x256 167x256 1000x256 100x1024`` gives the table of the metrics' README; anomalib's side of
1,000 images takes minutes and 4 GB.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max
from numpy.typing import NDArray

from destseg_anomalib.metrics import IAP
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFiguresMetric

BATCH = 8


def make_set(folder: Path, images: int, size: int) -> None:
    """Write smooth maps and blob masks like those of a trained detector: 70 % of the images have one to three defects."""
    rng = np.random.default_rng(0)
    maps = np.lib.format.open_memmap(folder / "maps.npy", "w+", np.float32, (images, size, size))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, (images, size, size))
    for index in range(images):
        noise = cv2.resize(rng.standard_normal((size // 8, size // 8), dtype=np.float32), (size, size))
        mask = np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(1, 4) if rng.random() < 0.7 else 0):
            centre, axes = rng.integers(0, size, 2).tolist(), (size * rng.uniform(0.02, 0.12, 2)).astype(int).tolist()
            cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
        found = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), size / 64) * rng.uniform(1, 6)
        maps[index] = 1 / (1 + np.exp(3 - noise - found))
        masks[index] = mask


def batches(folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Read the set batch by batch."""
    maps, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("maps", "masks"))
    for start in range(0, len(maps), BATCH):
        part = slice(start, start + BATCH)
        yield torch.from_numpy(maps[part].copy()), torch.from_numpy(masks[part].copy())


def loop_iap(preds: NDArray[np.float32], target: NDArray[np.bool_]) -> tuple[float, float]:
    """IAP and IAP@90 as their definition reads: for each region, compare every pixel of the set with its score."""
    scores = []
    for scores_of_image, mask in zip(preds, target, strict=True):
        regions, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for region in range(1, regions):
            inside = np.sort(scores_of_image[labels == region])[::-1]
            scores.append(inside[min(inside.size // 2, inside.size - 1)])
    precision: list[float] = []
    for score in sorted(scores):
        predicted = preds >= score
        true = int(np.count_nonzero(predicted & target))
        precision.append(max([true / int(np.count_nonzero(predicted)), *precision[-1:]]))
    return float(np.mean(precision)), precision[min(len(precision) // 10, len(precision) - 1)]


def run_loop(folder: Path) -> dict[str, float]:
    """The plain loop."""
    preds, target = (np.concatenate(arrays) for arrays in zip(*batches(folder), strict=True))
    iap, iap90 = loop_iap(preds, target)
    return {"IAP": iap, "IAP@90": iap90}


def run_anomalib(folder: Path) -> dict[str, float]:
    """The four of the six figures that anomalib has, each by its own metric."""
    fields = ["anomaly_map", "gt_mask"]
    metrics = {"AUROC": AUROC(fields), "AP": AUPR(fields), "PRO": AUPRO(fields), "F1Max": F1Max(fields)}
    figures = {}
    for name in list(metrics):  # one after the other: together they would need four times the memory
        metric = metrics.pop(name)
        for preds, target in batches(folder):
            metric.update(ImageBatch(image=preds[:, None].expand(-1, 3, -1, -1), anomaly_map=preds, gt_mask=target))
        figures[name] = float(metric.compute())
    return figures


def run_iap(folder: Path) -> dict[str, float]:
    """Our IAP alone, with the curve for IAP@90."""
    metric = IAP()
    for preds, target in batches(folder):
        super(type(metric).__mro__[1], metric).update(preds, target)
    precision = metric.curve().precision
    return {"IAP": mean_precision(precision), "IAP@90": precision_at(precision, 0.9)}


def run_figures(folder: Path, bits: int | None = None) -> dict[str, float]:
    """All six figures from one store."""
    metric = PixelFiguresMetric(bits=bits)
    for preds, target in batches(folder):
        metric.update(preds, target)
    figures = metric.compute()
    return {
        "AUROC": figures.auroc,
        "AP": figures.average_precision,
        "PRO": figures.per_region_overlap,
        "F1Max": figures.best_f1,
        "IAP": mean_precision(figures.curve.precision),
        "IAP@90": precision_at(figures.curve.precision, 0.9),
    }


def run_bounded(folder: Path) -> dict[str, float]:
    """All six figures with the background in 2^18 bins."""
    return run_figures(folder, bits=18)


SIDES: dict[str, Callable[[Path], dict[str, float]]] = {
    "plain loop": run_loop,
    "IAP": run_iap,
    "anomalib": run_anomalib,
    "six figures": run_figures,
    "six, 18 bits": run_bounded,
}
