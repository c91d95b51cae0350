# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a model's threshold does in a test, counted from what was predicted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from brightness import Brightness, engine, parts

from destseg_anomalib import OperatingPoint
from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.metrics.images import ImageRecord
from destseg_anomalib.metrics.verdicts import Verdict, operating_point, print_operating_point, share, verdicts


def mask(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    made = torch.zeros(8, 8, dtype=torch.bool)
    for top, bottom, left, right in boxes:
        made[top:bottom, left:right] = True
    return made


def batch(**fields: Any) -> ImageBatch:
    return ImageBatch(image=torch.zeros(2, 3, 8, 8), **fields)


def test_a_defect_is_found_by_more_than_half_and_a_region_that_touches_none_is_false() -> None:
    truth = torch.stack([mask((0, 2, 0, 2), (6, 8, 4, 8)), mask()])
    predicted = torch.stack([mask((0, 2, 0, 1), (6, 8, 4, 7), (4, 5, 0, 1)), mask((0, 1, 0, 1), (4, 6, 4, 6))])
    both = batch(gt_mask=truth, pred_mask=predicted, pred_label=torch.tensor([True, False]))
    first, second = verdicts(both)
    assert (first.alarm, first.found.tolist(), first.false_regions) == (True, [False, True], 1)
    assert (second.alarm, second.found.tolist(), second.false_regions) == (False, [], 2)
    assert [verdict.false_regions for verdict in verdicts(both, min_area=2)] == [0, 1]


def test_what_is_not_said_is_none() -> None:
    assert verdicts(batch()) == [Verdict(None, None, None)] * 2
    assert verdicts(batch(pred_label=torch.tensor([True, False]))) == [
        Verdict(True, None, None),
        Verdict(False, None, None),
    ]


@pytest.mark.parametrize(("count", "of"), [(0, 20), (20, 20), (24, 26), (1, 3)])
def test_interval_is_wilsons(count: int, of: int) -> None:
    """The ends solve ``|share - p| = z sqrt(p (1 - p) / n)``."""
    counted = share(count, of)
    for end in counted["interval_95"]:
        error = abs(count / of - end) - 1.959964 * (end * (1 - end) / of) ** 0.5
        assert abs(error) < 1e-3 or end in {0, 1}
    assert share(0, 0) == {"count": 0, "of": 0, "share": None, "interval_95": None}


def test_counts_are_of_defects_and_of_parts_labelled_good_each_once() -> None:
    images = [ImageRecord(name, 0, label) for name, label in (("a", False), ("b", True), ("c", None), ("a", False))]
    said = [
        Verdict(True, np.zeros(0, bool), 3),
        Verdict(True, np.array([True, False]), 1),
        Verdict(True, np.array([True]), 2),
        Verdict(True, np.zeros(0, bool), 3),
    ]
    post = PostProcessor(pixel_sensitivity=0.7)
    for name, value in (("_pixel_threshold", 4), ("pixel_min", 0), ("pixel_max", 10), ("_image_threshold", 5)):
        getattr(post, name).fill_(value)
    point = operating_point(images, said, post)
    assert (point["defects_found"]["count"], point["defects_found"]["of"]) == (2, 3)
    assert (point["alarms_on_good_parts"]["count"], point["alarms_on_good_parts"]["of"]) == (1, 1)
    assert point["false_regions_per_image"] == 2
    assert point["threshold"] == pytest.approx(2)
    assert point["threshold_of_parts"] == 5
    assert point["promise"] is None
    silent = operating_point(images, [Verdict(None, None, None)] * 4, SimpleNamespace())
    assert set(silent.values()) == {None, 3}


def test_the_table_shows_counts_and_intervals(capsys) -> None:
    images = [ImageRecord("a", 0, label=False), ImageRecord("b", 0, label=True)]
    said = [Verdict(False, np.zeros(0, bool), 0), Verdict(True, np.array([True, False]), 1)]
    print_operating_point(operating_point(images, said, OperatingPoint(false_alarms=0.5)))
    printed = capsys.readouterr().out
    low, high = share(1, 2)["interval_95"]
    for words in ("1 of 2", "50.0%", f"{low:.1%} to {high:.1%}", "0 of 1", "false regions per image"):
        assert words in printed


def test_a_test_leaves_the_point_of_the_model_and_says_it(tmp_path: Path, part_folder: Path, capsys) -> None:
    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False, post_processor=OperatingPoint(0.5))
    runner = engine(tmp_path)
    runner.validate(model, datamodule=parts(part_folder), verbose=False)
    capsys.readouterr()
    runner.test(model, datamodule=parts(part_folder), verbose=False)
    assert "defects found" not in capsys.readouterr().out
    runner.test(model, datamodule=parts(part_folder))
    assert "defects found" in capsys.readouterr().out
    [path] = tmp_path.rglob("operating_point.json")
    point = json.loads(path.read_text())
    assert point["promise"] == {"instance_recall": 0.5, "false_alarms": None, "min_area": 1}
    assert point["threshold"] == point["threshold_of_parts"] == float(model.post_processor.pixel_threshold)
    assert (point["defects_found"]["count"], point["defects_found"]["of"]) == (2, 3)  # at least half
    table = pd.read_csv(path.with_name("instances.csv"))
    assert table["found"].tolist() == (table["score"].astype(np.float32) >= np.float32(point["threshold"])).tolist()
    assert table["found"].sum() == 2


def test_a_model_that_finds_nothing_shows_nothing_found(tmp_path: Path, part_folder: Path) -> None:
    post = PostProcessor()
    for buffer in (post._image_threshold, post._pixel_threshold, post.image_max, post.pixel_max):
        buffer.fill_(1e6)
    for buffer in (post.image_min, post.pixel_min):
        buffer.fill_(0)
    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False, post_processor=post)
    engine(tmp_path).test(model, datamodule=parts(part_folder), verbose=False)
    [path] = tmp_path.rglob("operating_point.json")
    assert json.loads(path.read_text())["defects_found"]["count"] == 0
    assert not pd.read_csv(path.with_name("instances.csv"))["found"].any()
