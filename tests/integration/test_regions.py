# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Regions to look at: what lies outside changes no loss, no weight, no figure and no verdict, here or exported."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from destseg_anomalib import DeSTSeg, OperatingPoint, PFADSeg
from destseg_anomalib.synthesis import AnomalyGenerator, texture_bank
from tests.conftest import make_part_data, make_part_folder, quiet_engine
from tests.integration.conftest import TINY, Bench, expect

OUTSIDE = (slice(56, 80), slice(0, 24))  # of 80 x 80 pixels
SPOT = (slice(64, 78), slice(2, 16))  # farther from the border than a resize sees


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.seen.append(outputs["loss"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Parts, the same parts with a brilliant defect outside, drawn in their masks too, and the regions."""
    root = tmp_path_factory.mktemp("regions")
    parts = make_part_folder(root)
    marked = Path(shutil.copytree(parts, root / "marked" / "parts"))
    for path in marked.rglob("*.png"):
        picture = cv2.imread(str(path))
        picture[SPOT] = (255, 255, 255) if "ground_truth" in str(path) else (0, 40, 255)
        cv2.imwrite(str(path), picture)
    regions = np.full((80, 80), 255, np.uint8)
    regions[OUTSIDE] = 0
    cv2.imwrite(str(root / "regions.png"), regions)
    return parts, marked, root / "regions.png"


def trained(model_class: type, parts: Path, regions: Path | None, folder: Path, **arguments: Any) -> Any:
    seed_everything(0, verbose=False)
    small = {name: value for name, value in TINY.items() if name in {"backbone", "pre_trained", "image_size"}}
    model = model_class(**small, student_steps=2, segmentation_steps=3, regions=regions, **arguments)
    losses = Losses()
    engine = quiet_engine(folder, callbacks=[losses])
    engine.fit(model, datamodule=make_part_data(parts))
    figures = engine.test(model, datamodule=make_part_data(parts), verbose=False)[0]
    return model, Path(engine.best_model_path), torch.stack(losses.seen), figures


@pytest.mark.parametrize(("model_class", "small"), [(DeSTSeg, {}), (PFADSeg, {"aff": False, "pcar": False})])
def test_a_brilliant_defect_outside_changes_nothing(model_class: type, small, folders, tmp_path: Path) -> None:
    *both, regions = folders
    given = small | {"post_processor": OperatingPoint(instance_recall=0.5)}
    runs = [trained(model_class, parts, regions, tmp_path / str(index), **given) for index, parts in enumerate(both)]
    (one, _, losses, figures), (other, path, other_losses, other_figures) = runs
    assert torch.equal(losses, other_losses)
    assert figures == other_figures
    assert figures["IAP"] > 0
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    tables = [pd.read_csv(next((tmp_path / str(index)).rglob("instances.csv"))) for index in (0, 1)]
    assert tables[0].drop(columns="image").equals(tables[1].drop(columns="image"))
    assert len(tables[0]) == 3
    engine = quiet_engine(tmp_path)
    for parts in both:
        for batch in engine.predict(model_class(), data_path=parts / "test", ckpt_path=path):
            inside = one.model.regions.at(batch.anomaly_map.shape[-2:])
            assert not batch.pred_mask[..., ~inside].any()
    plain = trained(model_class, both[1], None, tmp_path / "plain", **small)
    assert not torch.equal(plain[2], losses)
    assert plain[3] != figures


def test_no_pixel_outside_is_corrupted_or_counted(folders, tmp_path: Path) -> None:
    parts, _, regions = folders
    model, _, _, figures = trained(DeSTSeg, parts, regions, tmp_path)
    inside = model.model.regions.inside
    assert inside.sum() == 32 * 32 - 10 * 10  # 80 / 32 pixels of the picture in each, and in the border those around it
    images = torch.rand(16, 3, 32, 32)
    generator = AnomalyGenerator(texture_bank(None, (32, 32)), within=model.model.regions)
    made = generator(images, torch.Generator().manual_seed(0))
    assert made.mask[..., inside].any()
    assert not made.mask[..., ~inside].any()
    assert torch.equal(made.corrupted[..., ~inside], images[..., ~inside])
    assert 0 <= figures["pixel_AUROC"] <= 1


def test_the_checkpoint_and_the_exported_file_keep_them(folders, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, marked, regions = folders
    moved = Path(shutil.copy(regions, tmp_path / "for_training.png"))
    model, path, _, _ = trained(DeSTSeg, marked, moved, tmp_path / "run")
    moved.unlink()
    loaded = DeSTSeg.load_from_checkpoint(path)
    assert torch.equal(loaded.model.regions.inside, model.model.regions.inside)
    session = onnxruntime.InferenceSession(str(loaded.to_onnx(tmp_path)))
    names = [output.name for output in session.get_outputs()]
    for batch in quiet_engine(tmp_path).predict(DeSTSeg(), data_path=marked / "test", ckpt_path=path):
        picture = cv2.cvtColor(cv2.imread(batch.image_path[0]), cv2.COLOR_BGR2RGB)
        images = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255
        found = dict(zip(names, session.run(names, {"input": images}), strict=True))
        np.testing.assert_allclose(found["anomaly_map"].squeeze(), batch.anomaly_map.squeeze(), atol=1e-3)
        clear = (batch.anomaly_map.squeeze() - 0.5).abs() > 1e-3
        assert (found["pred_mask"].squeeze() == batch.pred_mask.squeeze().numpy())[clear].all()


def test_a_training_goes_on_with_the_regions_that_it_began_with(folders, tmp_path: Path) -> None:
    parts, _, regions = folders
    moved = Path(shutil.copy(regions, tmp_path / "for_training.png"))
    model, path, _, _ = trained(DeSTSeg, parts, moved, tmp_path / "run")
    moved.unlink()
    small = {name: value for name, value in TINY.items() if name != "encoder_decoder"}
    again = DeSTSeg(**small, student_steps=2, segmentation_steps=4, regions=moved)
    quiet_engine(tmp_path / "again").fit(again, datamodule=make_part_data(parts), ckpt_path=path)
    assert torch.equal(again.model.regions.inside, model.model.regions.inside)
    without = DeSTSeg(**small, student_steps=2, segmentation_steps=4)
    with pytest.raises(
        ValueError, match=r"began with regions='.*for_training.png', but DeSTSeg was built with regions=None"
    ):
        quiet_engine(tmp_path / "without").fit(without, datamodule=make_part_data(parts), ckpt_path=path)


def test_regions_that_cannot_be_used_end_the_training_before_it_begins(bench: Bench, tmp_path: Path) -> None:
    for name, shape, value in (("black.png", (80, 80), 0), ("long.png", (80, 160), 255)):
        cv2.imwrite(str(tmp_path / name), np.full(shape, value, np.uint8))
    expect("is black all over", lambda: bench.train(regions=tmp_path / "black.png"))
    expect("is another shape: draw the regions on one of", lambda: bench.train(regions=tmp_path / "long.png"))
    expect("cannot be read", lambda: bench.train(regions=tmp_path / "none.png"))
    expect("^rotation='full' would turn", lambda: bench.train(regions=tmp_path / "none.png", rotation="full"))
