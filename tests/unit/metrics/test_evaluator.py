# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import io
import logging
import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.metrics import AUROC
from brightness import Brightness, BrightnessModel, engine, parts
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from destseg_anomalib.metrics import (
    RawMapEvaluator,
    evaluator,
    instance_average_precision,
    precision_at_instance_recall,
)
from destseg_anomalib.metrics.raw_batch import RawBatch

RANKED = {"image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_F1Max", "IAP", "IAP@90"}
AT_THRESHOLD = {"image_F1Score", "pixel_F1Score"}


@pytest.fixture
def raw(part_folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw maps, masks, scores and labels of the test set, without any of anomalib's callbacks."""
    data = parts(part_folder)
    model = Brightness(evaluator=False)
    data.setup()
    transform = model.pre_processor.transform
    items = [data.test_data[index] for index in range(len(data.test_data))]
    images = torch.stack([transform(item.image) for item in items])
    masks = torch.stack([transform(item.gt_mask) for item in items])
    result = BrightnessModel()(images)
    return result.anomaly_map, masks, result.pred_score, torch.tensor([int(item.gt_label) for item in items])


def run(folder: Path, evaluator: RawMapEvaluator | None = None, post_processor: bool = True, **data: object):
    model = Brightness(evaluator=evaluator or RawMapEvaluator(), post_processor=post_processor, visualizer=False)
    runner = engine(folder / "results")
    runner.validate(model, datamodule=parts(folder / "parts", **data))
    return runner.test(model, datamodule=parts(folder / "parts", **data))[0], runner, model


def test_rank_figures_come_from_raw_maps_although_the_post_processor_clamps(tmp_path, part_folder, raw) -> None:
    figures, runner, _ = run(tmp_path)
    maps, masks, scores, labels = raw
    assert figures.keys() == RANKED | AT_THRESHOLD
    assert figures == {name: value.item() for name, value in runner.trainer.callback_metrics.items()}
    flat, truth = maps.numpy().ravel(), masks.numpy().ravel()
    assert figures["pixel_AUROC"] == pytest.approx(roc_auc_score(truth, flat), abs=1e-6)
    assert figures["pixel_AP"] == pytest.approx(average_precision_score(truth, flat), abs=1e-6)
    assert figures["image_AUROC"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert figures["IAP"] == pytest.approx(instance_average_precision(maps, masks).item(), abs=1e-6)
    assert figures["IAP@90"] == pytest.approx(precision_at_instance_recall(maps, masks).item(), abs=1e-6)


def test_without_a_post_processor_the_figures_at_its_threshold_are_left_out(tmp_path, part_folder) -> None:
    with_threshold, *_ = run(tmp_path)
    figures, *_ = run(tmp_path, post_processor=False)
    assert figures == {name: with_threshold[name] for name in RANKED}


def test_without_masks_the_image_figures_stay(tmp_path, part_folder) -> None:
    figures, *_ = run(tmp_path, mask_dir=None)
    assert figures.keys() == {"image_AUROC", "image_F1Score"}
    assert not list((tmp_path / "results").rglob("instances.csv"))


@pytest.mark.parametrize("said", [0, 1])
def test_a_test_set_of_good_images_leaves_f1_undefined(tmp_path, part_folder, said: int) -> None:
    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False)
    model.post_processor._image_threshold.fill_(0 if said else 1e9)
    with pytest.warns(UserWarning, match="image_AUROC is undefined"):
        [figures] = engine(tmp_path).test(model, datamodule=parts(part_folder, abnormal_dir=None, mask_dir=None))
    assert figures.keys() == {"image_AUROC", "image_F1Score"}
    assert all(map(math.isnan, figures.values()))


def test_validation_logs_nothing_unless_asked_to(tmp_path, part_folder) -> None:
    runner = engine(tmp_path / "results")
    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False)
    assert runner.validate(model, datamodule=parts(part_folder)) == [{}]
    watching = RawMapEvaluator(val_metrics=AUROC(fields=["pred_score", "gt_label"], prefix="image_"))
    model = Brightness(evaluator=watching, visualizer=False)
    assert engine(tmp_path / "results").validate(model, datamodule=parts(part_folder))[0].keys() == {"image_AUROC"}


def test_a_second_test_in_the_same_trainer_gives_the_same_and_leaves_nothing(tmp_path, part_folder) -> None:
    first, runner, model = run(tmp_path)
    callbacks = list(runner.trainer.callbacks)
    assert runner.test(model, datamodule=parts(part_folder))[0] == first
    assert [type(callback) for callback in runner.trainer.callbacks] == [type(callback) for callback in callbacks]
    assert not any("RawBatch" in type(callback).__name__ for callback in callbacks)
    assert not model.evaluator.images
    assert not model.evaluator.pixels.negatives


def test_an_interrupted_test_leaves_nothing_to_the_next(tmp_path, part_folder) -> None:
    figures, runner, model = run(tmp_path)

    class Failing(nn.Module):
        def forward(self, images: torch.Tensor) -> InferenceBatch:
            if len(model.evaluator.images) >= 2:
                msg = "stop"
                raise RuntimeError(msg)
            return BrightnessModel()(images)

    model.model = Failing()
    with pytest.raises(RuntimeError, match="stop"):
        runner.test(model, datamodule=parts(part_folder))
    model.model = BrightnessModel()
    assert runner.test(model, datamodule=parts(part_folder))[0] == figures


def test_bounded_mode_logs_its_bracket(tmp_path, part_folder) -> None:
    exact, *_ = run(tmp_path)
    figures, *_ = run(tmp_path, RawMapEvaluator(bits=18))
    assert figures.keys() - exact.keys() == {"IAP_lower", "IAP_upper", "IAP@90_lower", "IAP@90_upper"}
    for name in ("IAP", "IAP@90"):
        assert figures[f"{name}_lower"] - 1e-7 <= exact[name] <= figures[f"{name}_upper"] + 1e-7


def test_pixels_are_counted_where_they_would_take_more_than_a_gibibyte(
    tmp_path, part_folder, caplog, monkeypatch
) -> None:
    seen = []
    monkeypatch.setattr(evaluator, "bits_for", lambda pixels: seen.append(pixels) or 18)
    with caplog.at_level("INFO"):
        counted, _, model = run(tmp_path)
    assert seen == [6 * 40 * 40]
    assert model.evaluator.pixels.bits == 18
    assert counted == run(tmp_path, RawMapEvaluator(bits=18))[0]
    assert "million pixels: they are counted by the first 18 bits" in caplog.text
    assert run(tmp_path, RawMapEvaluator(bits=None))[0].keys() == RANKED | AT_THRESHOLD


def test_barebones_runs_have_the_figures_too(tmp_path, part_folder) -> None:
    expected, *_ = run(tmp_path, post_processor=False)
    model = Brightness(evaluator=RawMapEvaluator(), post_processor=False, visualizer=False)
    runner = Engine(accelerator="cpu", devices=1, default_root_dir=tmp_path / "bare", barebones=True)
    figures = runner.test(model, datamodule=parts(part_folder))[0]
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(expected, abs=1e-6)


def test_the_report_lies_beside_the_heat_maps(tmp_path, part_folder) -> None:
    model = Brightness(evaluator=RawMapEvaluator())
    runner = engine(tmp_path / "results")
    runner.test(model, datamodule=parts(part_folder))
    folder = Path(runner.trainer.default_root_dir) / "images"
    files = {"test", "instances.csv", "iap_curve.csv", "iap_curve.png", "operating_point.json"}
    assert {path.name for path in folder.iterdir()} == files
    table = pd.read_csv(folder / "instances.csv")
    assert [Path(image).name for image in table["image"]] == ["000.png", "001.png", "002.png"]


def test_lost_regions_and_contradicting_labels_are_logged(tmp_path, part_folder, caplog) -> None:
    masks = part_folder / "ground_truth" / "hole"
    first = cv2.imread(str(masks / "000_mask.png"))
    first[70, 70] = 255  # one pixel of 80 x 80 is not half of a pixel of 40 x 40
    cv2.imwrite(str(masks / "000_mask.png"), first)
    cv2.imwrite(str(masks / "002_mask.png"), np.zeros_like(first))
    with caplog.at_level(logging.WARNING, "destseg_anomalib"):
        run(tmp_path)
    assert "Resizing the ground truth lost 1 of 3 regions, in 1 of 2 images." in caplog.text
    assert "1 image is labelled anomalous but has an empty mask" in caplog.text
    assert "002.png" in caplog.text


def test_an_image_whose_regions_are_all_lost_still_counts_as_anomalous(tmp_path, part_folder) -> None:
    figures, *_ = run(tmp_path)
    masks = part_folder / "ground_truth" / "hole"
    tiny = np.zeros((80, 80), np.uint8)
    tiny[70, 70] = 255
    for index in (0, 1):
        cv2.imwrite(str(masks / f"{index:03d}_mask.png"), tiny)
    assert run(tmp_path)[0]["image_AUROC"] == figures["image_AUROC"]


def test_a_set_without_any_region_keeps_its_image_figures(tmp_path, part_folder) -> None:
    for path in (part_folder / "ground_truth" / "hole").iterdir():
        cv2.imwrite(str(path), np.zeros((80, 80), np.uint8))
    with pytest.warns(UserWarning, match="no region"):
        figures, *_ = run(tmp_path)
    assert math.isnan(figures["IAP"])
    assert math.isnan(figures["pixel_AUROC"])
    assert figures["image_AUROC"] > 0.5


def test_nan_in_a_map_is_an_error_that_names_the_image(tmp_path, part_folder) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> InferenceBatch:
            result = BrightnessModel()(images)
            result.anomaly_map[1, 0, 3, 3] = torch.nan
            return result

    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False)
    model.model = Broken()
    with pytest.raises(ValueError, match=r"anomaly map of image .*00\d\.png contains NaN"):
        engine(tmp_path / "results").test(model, datamodule=parts(part_folder))


def test_a_tested_model_can_be_saved_and_adds_nothing_to_its_checkpoint(tmp_path, part_folder) -> None:
    _, runner, model = run(tmp_path)
    assert not [key for key in model.state_dict() if "evaluator" in key]
    runner.trainer.save_checkpoint(tmp_path / "model.ckpt")
    torch.save(model.evaluator.pixels, io.BytesIO())


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_maps_of_another_size_than_their_masks_are_refused(tmp_path: Path, part_folder: Path, stage: str) -> None:
    class Small(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> InferenceBatch:
            return InferenceBatch(anomaly_map=images[:, :1, ::2, ::2], pred_score=images.mean((1, 2, 3)))

    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False)
    model.model = Small()
    with pytest.raises(ValueError, match=r"maps have 20 x 20 pixels, the masks 40 x 40: give the model the size .*\.$"):
        getattr(engine(tmp_path), stage)(model, datamodule=parts(part_folder), verbose=False)


def test_a_missing_score_is_the_highest_value_of_the_map() -> None:
    batch, anomaly_map = RawBatch(), torch.rand(2, 1, 4, 4)
    batch.anomaly_map = anomaly_map
    assert torch.equal(batch.take()[1], anomaly_map.amax(dim=(1, 2, 3)))
    assert batch.take() == (None, None)
