# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from destseg_anomalib.metrics.images import ImageRecord, ground_truth_notes, image_auroc, mask_files


def test_mask_files_come_from_every_data_set_that_names_them() -> None:
    table = pd.DataFrame({"image_path": ["a", "b"], "mask_path": ["", "b_mask"]})
    datasets = [
        SimpleNamespace(samples=table),
        SimpleNamespace(samples=pd.DataFrame({"image_path": ["c"]})),
        SimpleNamespace(),
    ]
    loaders = [SimpleNamespace(dataset=dataset) for dataset in datasets]
    assert mask_files(SimpleNamespace(test_dataloaders=loaders)) == {"a": "", "b": "b_mask"}
    assert mask_files(SimpleNamespace(test_dataloaders=loaders[1])) == {}


def test_image_auroc_ranks_large_raw_scores_that_a_sigmoid_would_tie() -> None:
    scores = {"a": (40.0, False), "b": (60.0, True), "c": (30.0, False), "d": (35.0, True)}
    images = [ImageRecord(path, score, label=label) for path, (score, label) in scores.items()]
    assert image_auroc(images) == 0.75


def test_image_auroc_leaves_out_images_without_a_label() -> None:
    images = [ImageRecord("a", 0.1, label=False), ImageRecord("b", 0.9, label=True), ImageRecord("c", 0.0, label=None)]
    assert image_auroc(images) == 1


@pytest.mark.parametrize("label", [True, False])
def test_image_auroc_of_one_class_is_nan_with_a_warning(label: bool) -> None:
    with pytest.warns(UserWarning, match="lacks normal or anomalous"):
        assert math.isnan(image_auroc([ImageRecord("a", 0.1, label=label)]))


def test_a_score_of_nan_is_an_error_that_names_the_image() -> None:
    with pytest.raises(ValueError, match=r"image bad\.png is NaN"):
        image_auroc([ImageRecord("bad.png", math.nan, label=True)])


def test_a_mask_file_tells_what_the_reduction_lost(tmp_path: Path) -> None:
    original = np.zeros((40, 40), np.uint8)
    original[5, 5] = original[20:30, 20:30] = 255
    path = str(tmp_path / "mask.png")
    cv2.imwrite(path, original)
    reduced = np.zeros((10, 10), dtype=bool)
    reduced[5:7, 5:7] = True
    record = ImageRecord("a.png", 1.0, label=True).with_mask(reduced, path, regions=1)
    assert (record.regions, record.lost, record.original) == (1, 1, 2)
    assert list(ground_truth_notes([record])) == ["Resizing the ground truth lost 1 of 2 regions, in 1 of 1 images."]


@pytest.mark.parametrize("path", [None, "", "missing.png"])
def test_without_a_mask_file_nothing_is_said_to_be_lost(path: str | None) -> None:
    record = ImageRecord("a.png", 1.0, label=True).with_mask(np.ones((2, 2), dtype=bool), path, regions=1)
    assert (record.lost, record.original) == (0, 0)
    assert not list(ground_truth_notes([record]))


def test_labels_that_contradict_their_masks_are_named() -> None:
    images = [
        ImageRecord("empty.png", 1, label=True, regions=0),
        ImageRecord("marked.png", 1, label=False, regions=2),
        ImageRecord("all_lost.png", 1, label=True, regions=0, lost=1, original=1),
        ImageRecord("fine.png", 1, label=False, regions=0),
    ]
    notes = " ".join(ground_truth_notes(images))
    assert "labelled anomalous but has an empty mask; the label counts: empty.png." in notes
    assert "labelled normal but has defects in its mask; the label counts: marked.png." in notes
    assert "all_lost.png" not in notes
    assert "fine.png" not in notes


def test_images_without_masks_among_others_are_counted() -> None:
    images = [ImageRecord("a", 1, label=True, regions=1), *[ImageRecord(str(n), 1, label=True) for n in range(7)]]
    assert list(ground_truth_notes(images)) == [
        "Each of 7 images is without a mask and is left out of all pixel figures: 0, 1, 2, 3, 4, ...."
    ]


def test_repetitions_are_told_of_between_processes_only() -> None:
    images = [ImageRecord("a", 1, label=True, regions=1)] * 2
    assert not list(ground_truth_notes(images))
    assert "1 of 2 images are repetitions" in next(ground_truth_notes(images, distributed=True))
