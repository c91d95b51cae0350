# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a prediction leaves: lists of pictures and of defects, in pixels of the pictures, each run's in a folder."""

import csv
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision.transforms import v2

from destseg_anomalib import OperatingPoint
from destseg_anomalib.deployment.defects import list_defects
from destseg_anomalib.deployment.prediction_lists import PredictionLists, _predictions, write_lists
from destseg_anomalib.metrics.picture_pixels import picture_size
from tests.unit.metrics.brightness import SIZE, Brightness, engine, parts

HEIGHT, WIDTH = 354, 488


def write_picture(path: Path, *boxes: tuple[int, int, int, int], ground: int = 20, bright: int = 250) -> Path:
    """A dark picture with bright rectangles: left, top, width, height."""
    picture = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
    for left, top, width, height in boxes:
        picture[top : top + height, left : left + width] = bright
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)
    return path


@pytest.fixture
def model(tmp_path: Path, part_folder: Path) -> Brightness:
    """A model whose threshold is half of what a bright pixel has."""
    model = Brightness(post_processor=OperatingPoint(instance_recall=0.5))
    engine(tmp_path / "validated").validate(model, datamodule=parts(part_folder), verbose=False)
    model.post_processor._pixel_threshold.fill_(30 * 135 / 255)
    return model


def lists(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_csv(folder / "predictions.csv"), pd.read_csv(folder / "defects.csv")


@given(mask=hnp.arrays(bool, (7, 9)), data=st.data())
def test_defects_are_the_regions_of_the_mask(mask: np.ndarray, data: st.DataObject) -> None:
    scores = data.draw(hnp.arrays(np.float32, mask.shape, elements=st.floats(0, 1, width=32)))
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    expected = []
    for label in range(1, count):
        rows, columns = np.nonzero(labels == label)
        values = scores[labels == label].astype(np.float64)
        size = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
        expected.append(
            (columns.min(), rows.min(), *size, columns.mean(), rows.mean(), rows.size, values.max(), values.mean())
        )
    found = list_defects(mask, scores)
    assert [defect.highest_score for defect in found] == sorted((row[7] for row in expected), reverse=True)
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=0.051)
    assert list_defects(mask, scores, min_area=4) == [defect for defect in found if defect.area >= 4]


@given(data=st.data(), height=st.integers(8, 300), width=st.integers(8, 300))
def test_boxes_in_the_picture_are_the_maps_to_half_a_pixel(data: st.DataObject, height: int, width: int) -> None:
    mask = data.draw(hnp.arrays(bool, (8, 8)).filter(np.any))
    scores = np.arange(64, dtype=np.float32).reshape(8, 8)
    for small, large in zip(list_defects(mask, scores), list_defects(mask, scores, (height, width)), strict=True):
        across, down = width / 8, height / 8
        assert abs(large.left - small.left * across) <= 0.5
        assert abs(large.left + large.width - (small.left + small.width) * across) <= 0.5
        assert abs(large.top - small.top * down) <= 0.5
        assert abs(large.top + large.height - (small.top + small.height) * down) <= 0.5
        assert abs((large.centre_x + 0.5) / across - (small.centre_x + 0.5)) < 0.06 * (1 + 1 / across)
        assert abs(large.area - small.area * across * down) <= 0.5


def test_a_defect_is_listed_at_the_pixels_where_it_was_drawn(tmp_path: Path, model: Brightness, capsys) -> None:
    drawn = 122, 177, 61, 44  # ten fortieths of the width, and so on: whole pixels of the map
    write_picture(tmp_path / "new" / "a.png", drawn, (400, 30, 40, 40))
    write_picture(tmp_path / "new" / "b.png")
    engine(tmp_path).predict(model, data_path=tmp_path / "new")
    [folder] = tmp_path.glob("Brightness/latest/predictions/v0")
    pictures, defects = lists(folder)
    assert [Path(name).name for name in pictures["picture"]] == ["a.png", "b.png"]
    assert pictures["verdict"].tolist() == ["bad", "good"]
    assert pictures["defects"].tolist() == [2, 0]
    assert (pictures["score"] > 0.5).tolist() == [True, False]
    assert [Path(name).name for name in defects["picture"]] == ["a.png"] * 2
    across, down = WIDTH / SIZE[1] / 2, HEIGHT / SIZE[0] / 2
    row = defects[defects["left"] < 300].iloc[0]
    found = (row["left"], row["top"], row["left"] + row["width"], row["top"] + row["height"])
    left, top, width, height = drawn
    slack = (across, down, across, down)
    np.testing.assert_array_less(np.abs(np.subtract(found, (left, top, left + width, top + height))), slack)
    assert row["centre_x"] == pytest.approx(left + width / 2 - 0.5, abs=across)
    assert row["centre_y"] == pytest.approx(top + height / 2 - 0.5, abs=down)
    assert row["area"] == pytest.approx(width * height, rel=0.3)
    assert row["highest_score"] == pictures["score"][0]
    assert 0.5 < row["mean_score"] <= row["highest_score"]
    printed = capsys.readouterr().out
    assert "1 of 2 pictures are bad, with 2 defects in all" in printed
    assert str(folder) in printed


def test_no_run_writes_over_another_and_equal_names_survive(tmp_path: Path, model: Brightness) -> None:
    for kind, boxes in (("front", [(100, 100, 60, 60)]), ("back", [])):
        write_picture(tmp_path / "new" / kind / "0.png", *boxes)
    model.visualizer = ImageVisualizer()
    for data in ("new", "new/back", "new/front"):
        engine(tmp_path).predict(model, data_path=tmp_path / data)
    folders = sorted(tmp_path.glob("Brightness/latest/predictions/v*"))
    assert [len(lists(folder)[0]) for folder in folders] == [2, 1, 1]
    assert [lists(folder)[0]["verdict"].tolist() for folder in folders[1:]] == [["good"], ["bad"]]
    assert [len(list(folder.rglob("*.png"))) for folder in folders] == [2, 1, 1]
    assert model.visualizer.output_dir is None


def test_a_prediction_leaves_the_trainer_as_it_was(tmp_path: Path, model: Brightness) -> None:
    write_picture(tmp_path / "new" / "a.png")
    runner = engine(tmp_path)
    runner.predict(model, data_path=tmp_path / "new")
    assert not any(isinstance(callback, PredictionLists) for callback in runner.trainer.callbacks)
    unreadable = tmp_path / "bad.png"
    unreadable.write_bytes(b"no picture")
    model.visualizer = ImageVisualizer()
    with pytest.raises(OSError, match="identify"):
        runner.predict(model, data_path=unreadable)
    assert model.visualizer.output_dir is None
    assert not any(isinstance(callback, PredictionLists) for callback in runner.trainer.callbacks)


def test_a_small_region_is_no_defect_where_the_point_says_so(tmp_path: Path, part_folder: Path) -> None:
    model = Brightness(visualizer=False, post_processor=OperatingPoint(instance_recall=0.5, min_area=30))
    engine(tmp_path / "validated").validate(model, datamodule=parts(part_folder), verbose=False)
    model.post_processor._pixel_threshold.fill_(30 * 135 / 255)
    write_picture(tmp_path / "new" / "a.png", (40, 40, 40, 40), (200, 100, 160, 160))
    engine(tmp_path).predict(model, data_path=tmp_path / "new")
    pictures, defects = lists(next(tmp_path.glob("Brightness/latest/predictions/v0")))
    assert pictures["defects"].tolist() == [1]
    assert defects["left"].tolist() == [pytest.approx(200, abs=6)]


def test_a_cut_picture_keeps_the_pixels_of_its_map(tmp_path: Path) -> None:
    path = str(write_picture(tmp_path / "a.png"))
    resize, cut = v2.Resize(64), v2.CenterCrop(48)
    assert picture_size(path) == (HEIGHT, WIDTH)
    assert picture_size(path, PreProcessor(transform=v2.Compose([resize]))) == (HEIGHT, WIDTH)
    for transform in (cut, v2.Compose([resize, v2.Compose([cut])])):
        assert picture_size(path, PreProcessor(transform=transform)) is None
    assert picture_size(str(tmp_path / "none.png")) is None


def test_what_a_model_does_not_say_is_left_empty(tmp_path: Path) -> None:
    silent = ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=torch.tensor([0.2, 0.7]))
    said = _predictions(silent, ["a, b.png", "c.png"], SimpleNamespace(post_processor=None))
    write_lists(said, tmp_path)
    rows = list(csv.reader((tmp_path / "predictions.csv").open()))
    assert [row[0] for row in rows[1:]] == ["a, b.png", "c.png"]
    assert [row[2:] for row in rows[1:]] == [["", ""], ["", ""]]
    assert lists(tmp_path)[1].empty
