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
from destseg_anomalib.metrics.verdicts import Verdict


def test_the_report_tells_found_defects_from_missed_ones(tmp_path: Path) -> None:
    preds, target = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    target[0, 1:3, 1:4] = target[0, 6, 6] = target[2, 0, 0] = 1
    preds[0, 1:3, 1:4], preds[0, 6, 6], preds[2, 0, 0] = 0.8, 0.6, 0.1
    metric = PixelFiguresMetric()
    metric.update(preds, target)
    images = [ImageRecord(name, 0, label=None, regions=count) for name, count in (("a", 2), ("b", 0), ("c", 1))]
    said = [Verdict(None, np.array(found, bool), 0) for found in ([True, False], [], [True])]
    write_report(tmp_path / "images", images, metric.compute(), said)

    table = pd.read_csv(tmp_path / "images" / "instances.csv")
    assert table["image"].tolist() == ["a", "a", "c"]
    assert table["region"].tolist() == [1, 2, 1]
    assert table["area"].tolist() == [6, 1, 1]
    assert table[["left", "top", "width", "height"]].to_numpy().tolist() == [[1, 1, 3, 2], [6, 6, 1, 1], [0, 0, 1, 1]]
    assert np.allclose(table["score"], [0.8, 0.6, 0.1])
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["found"].tolist() == [True, False, True], "as predicted, whatever the scores"

    curve = pd.read_csv(tmp_path / "images" / "iap_curve.csv")
    assert np.allclose(curve["instance_recall"], [1, 2 / 3, 1 / 3])
    assert (curve["precision"] == 1).all()
    assert cv2.imread(str(tmp_path / "images" / "iap_curve.png")) is not None


def test_defects_of_a_model_that_predicts_no_mask_are_missed_and_equal_scores_share_a_rank(tmp_path: Path) -> None:
    target = torch.zeros(3, 1, 4)
    target[:, 0, 0] = 1
    metric = PixelFiguresMetric()
    metric.update(torch.tensor([0.5, 0.9, 0.5]).reshape(3, 1, 1) * target, target)
    images = [ImageRecord(str(index), 0, label=None, regions=1) for index in range(3)]
    write_report(tmp_path, images, metric.compute(), [Verdict(None, None, None)] * 3)
    table = pd.read_csv(tmp_path / "instances.csv")
    assert table["found"].tolist() == [False] * 3
    assert table["rank"].tolist() == [2, 1, 2]


def test_boxes_are_in_pixels_of_the_picture_where_its_size_is_known(tmp_path: Path) -> None:
    target = torch.zeros(4, 10, 10)
    target[0, 2:4, 5:8] = target[1, 2:4, 5:8] = target[3, 0, 0] = target[3, 9, 9] = 1
    metric = PixelFiguresMetric()
    metric.update(target, target)
    sizes = ((354, 488), None, (354, 488), (100, 20))
    images = [
        ImageRecord(str(index), 0, label=None, regions=regions, size=size, map_size=(10, 10))
        for index, (regions, size) in enumerate(zip((1, 1, 0, 2), sizes, strict=True))
    ]
    write_report(tmp_path, images, metric.compute(), [Verdict(None, None, None)] * 4)
    table = pd.read_csv(tmp_path / "instances.csv")
    assert table[["left", "top", "width", "height", "area"]].to_numpy().tolist() == [
        [244, 71, 146, 71, round(6 * 35.4 * 48.8)],
        [5, 2, 3, 2, 6],
        [0, 0, 2, 10, 20],
        [18, 90, 2, 10, 20],
    ]
