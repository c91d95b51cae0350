# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions are raw and small; speed counts training alone; latency is per image."""

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch

from destseg_anomalib.benchmark import measure
from destseg_anomalib.benchmark.measure import Predictions, TrainingSpeed, latency


def trainer_of(paths: list[str], masks: list[str]) -> SimpleNamespace:
    samples = pd.DataFrame({"image_path": paths, "mask_path": masks})
    return SimpleNamespace(test_dataloaders=SimpleNamespace(dataset=SimpleNamespace(samples=samples)))


def batch(maps: torch.Tensor | None, scores: list[float] | None, paths: list[str]) -> ImageBatch:
    return ImageBatch(
        image=torch.zeros(len(paths), 3, 8, 8),
        image_path=paths,
        gt_label=torch.tensor([False] * (len(paths) - 1) + [True]),
        anomaly_map=maps,
        pred_score=None if scores is None else torch.tensor(scores),
    )


def test_maps_are_reduced_to_128_pixels_and_share_one_range_of_grey(tmp_path) -> None:
    predictions = Predictions()
    predictions.on_test_epoch_start(trainer_of(["a", "b", "c"], ["", "", "c_mask"]), None)
    dark, light = torch.full((1, 1, 256, 192), -3.0), torch.full((1, 1, 256, 192), 5.0)
    predictions.on_test_batch_end(None, None, batch(torch.cat([dark, dark + 4]), [0.1, 0.2], ["a", "b"]))
    predictions.on_test_batch_end(None, None, batch(light, [9.0], ["c"]))
    predictions.write(tmp_path)
    maps = [cv2.imread(str(tmp_path / "maps" / f"{index}.png"), cv2.IMREAD_UNCHANGED) for index in range(3)]
    assert [image.shape for image in maps] == [(128, 96)] * 3
    assert [int(np.median(image)) for image in maps] == [0, 128, 255]
    table = pd.read_csv(tmp_path / "images.csv", keep_default_na=False)
    assert list(table["mask_path"]) == ["", "", "c_mask"]
    assert list(table["label"]) == [0, 1, 1]
    assert list(table["score"]) == pytest.approx([0.1, 0.2, 9.0])


def test_small_maps_keep_their_size_and_give_a_score_where_the_model_gives_none(tmp_path) -> None:
    predictions = Predictions()
    maps = torch.zeros(1, 20, 30)
    maps[0, 3, 4] = 7
    predictions.on_test_batch_end(None, None, batch(maps, None, ["a"]))
    predictions.write(tmp_path)
    assert cv2.imread(str(tmp_path / "maps" / "0.png"), cv2.IMREAD_UNCHANGED).shape == (20, 30)
    assert pd.read_csv(tmp_path / "images.csv")["score"][0] == 7


def test_a_model_without_maps_still_has_scores(tmp_path) -> None:
    predictions = Predictions()
    predictions.on_test_batch_end(None, None, batch(None, [0.25], ["a"]))
    predictions.write(tmp_path)
    assert pd.read_csv(tmp_path / "images.csv")["score"][0] == 0.25
    assert not (tmp_path / "maps").exists()


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in one number, which passes when a test adds to it: what is measured does not depend on the machine."""
    now = [0.0]
    monkeypatch.setattr(measure, "perf_counter", lambda: now[0])
    return now


def test_training_speed_leaves_validation_out(clock) -> None:
    speed, fitting = TrainingSpeed(), SimpleNamespace(state=SimpleNamespace(fn="fit"))
    assert np.isnan(speed.images_per_second)
    speed.on_train_epoch_start()
    for _ in range(2):
        clock[0] += 0.25
        speed.on_train_batch_end(None, None, None, batch(None, None, ["a", "b", "c"]), 0)
    speed.on_validation_start()
    clock[0] += 8
    speed.on_validation_end(fitting, None)
    speed.on_train_epoch_end()
    assert speed.images == 6
    assert speed.seconds == 0.5
    assert speed.images_per_second == 12


def test_latency_is_per_image_and_measured_as_the_model_was_tested(clock) -> None:
    seen = []

    class Slow(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> None:
            seen.append((tuple(images.shape), images.flatten(1)[:, 0].tolist(), torch.is_autocast_enabled("cpu")))
            clock[0] += (8, 0.5, 0.25, 0.125)[len(seen) - 1]

    loader = [SimpleNamespace(image=torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 3, 5, 6))]
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        precision_plugin=SimpleNamespace(forward_context=lambda: torch.autocast("cpu", torch.bfloat16)),
        datamodule=SimpleNamespace(test_dataloader=lambda: loader),
    )
    row = latency(Slow(), trainer, batch_size=4, seconds=0)
    assert row["latency_4_median_ms"] == 250 / 4
    assert 250 / 4 < row["latency_4_p95_ms"] <= 500 / 4
    assert seen == [((4, 3, 5, 6), [0, 1, 2, 0], True)] * 4  # one to warm up and three to time
