# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from destseg_anomalib.metrics.figures import PixelFiguresMetric
from destseg_anomalib.metrics.images import ImageRecord
from destseg_anomalib.metrics.report import write_report


def test_the_report_tells_found_defects_from_missed_ones(tmp_path: Path) -> None:
    preds, target = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    target[0, 1:3, 1:4] = target[0, 6, 6] = target[2, 0, 0] = 1
    preds[0, 1:3, 1:4], preds[0, 6, 6], preds[2, 0, 0] = 0.8, 0.6, 0.1
    metric = PixelFiguresMetric()
    metric.update(preds, target)
    images = [ImageRecord(name, 0, label=None, regions=count) for name, count in (("a", 2), ("b", 0), ("c", 1))]
    write_report(tmp_path / "images", images, metric.compute())

    table = pd.read_csv(tmp_path / "images" / "instances.csv")
    assert table["image"].tolist() == ["a", "a", "c"]
    assert table["region"].tolist() == [1, 2, 1]
    assert table["area"].tolist() == [6, 1, 1]
    assert table[["left", "top", "width", "height"]].to_numpy().tolist() == [[1, 1, 3, 2], [6, 6, 1, 1], [0, 0, 1, 1]]
    assert np.allclose(table["score"], [0.8, 0.6, 0.1])
    # Of three regions all must be found for a recall of 0.9.
    assert table["found"].tolist() == [True, True, True]

    curve = pd.read_csv(tmp_path / "images" / "iap_curve.csv")
    assert np.allclose(curve["instance_recall"], [1, 2 / 3, 1 / 3])
    assert (curve["precision"] == 1).all()
    assert cv2.imread(str(tmp_path / "images" / "iap_curve.png")) is not None


def test_defects_below_the_threshold_are_marked_as_missed(tmp_path: Path) -> None:
    target = torch.zeros(10, 1, 4)
    target[:, 0, 0] = 1
    preds = torch.linspace(0.1, 1, 10).reshape(10, 1, 1) * target
    metric = PixelFiguresMetric()
    metric.update(preds, target)
    images = [ImageRecord(str(index), 0, label=None, regions=1) for index in range(10)]
    write_report(tmp_path, images, metric.compute())
    assert pd.read_csv(tmp_path / "instances.csv")["found"].tolist() == [False] + [True] * 9
