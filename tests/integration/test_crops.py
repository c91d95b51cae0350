# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Training on crops, and judging the whole picture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.synthesis import AnomalyGenerator, texture_bank
from destseg_anomalib.synthesis.rotation import FILL, margin_of
from tests.conftest import quiet_engine
from tests.integration.conftest import STEPS, TINY, Bench, expect

LARGE = {"backbone": "test_resnet", "pre_trained": False, "image_size": (64, 96)}


class Sizes(Callback):
    """Notes what a step sees, and what it loses."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.seen.append(tuple(batch.image.shape[-2:]))
        self.losses.append(outputs["loss"])


def trained(model_class: type, bench: Bench, folder: Path, steps: int = 2, **kwargs: Any) -> tuple[Any, Path, Sizes]:
    sizes, resumed, others = Sizes(), kwargs.pop("ckpt_path", None), kwargs.pop("callbacks", [])
    model = model_class(**LARGE, student_steps=2, segmentation_steps=steps, seed=1, crop_size=32, **kwargs)
    engine = quiet_engine(folder, callbacks=[sizes, *others])
    engine.fit(model, datamodule=bench.data(), ckpt_path=resumed)
    return model, Path(engine.trainer.checkpoint_callback.best_model_path), sizes


@pytest.mark.parametrize("model_class", [DeSTSeg, PFADSeg])
def test_a_step_sees_crops_and_a_test_the_whole(model_class: type, bench: Bench, tmp_path: Path) -> None:
    model, path, sizes = trained(model_class, bench, tmp_path, rotation="slight")
    margin = margin_of("slight", 32)
    assert sizes.seen == [(32 + 2 * margin, 32 + 2 * margin)] * 4
    assert quiet_engine(tmp_path).test(model, datamodule=bench.data(), verbose=False)[0]["IAP"] >= 0
    [batch] = quiet_engine(tmp_path).predict(model_class(), data_path=bench.parts / "test/hole/000.png", ckpt_path=path)
    assert batch.anomaly_map.shape[-2:] == (64, 96)
    assert (path.parents[2] / "synthetic.png").is_file()


class Copy(Callback):
    """Keeps the checkpoint of a step, in the middle of a phase."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path, weights_only=False)


def test_a_training_on_crops_goes_on_bit_for_bit(bench: Bench, tmp_path: Path) -> None:
    whole, sizes = trained(DeSTSeg, bench, tmp_path, steps=4, callbacks=[Copy(tmp_path / "middle.ckpt")])[::2]
    rest, after = trained(DeSTSeg, bench, tmp_path, steps=4, ckpt_path=tmp_path / "middle.ckpt")[::2]
    assert torch.equal(torch.stack(after.losses), torch.stack(sizes.losses[3:]))
    state = rest.state_dict()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_rotation_brings_no_grey_corner_into_a_crop() -> None:
    margin = margin_of("full", 64)
    images = torch.rand(16, 3, 64 + 2 * margin, 64 + 2 * margin) * 0.2 + 0.8
    generator = AnomalyGenerator(texture_bank(None, (64, 64)), rotation="full", size=64)
    made = generator(images, torch.Generator().manual_seed(0))
    assert made.clean.shape == made.corrupted.shape == (16, 3, 64, 64)
    assert made.mask.shape == (16, 1, 64, 64)
    assert made.clean.min() > 0.75 > FILL


def test_what_cannot_be_cut_is_said(bench: Bench) -> None:
    too_large = r"^crop_size=40 must lie between 1 and the sides of image_size=\(32, 32\)"
    expect(too_large, lambda: DeSTSeg(**TINY, crop_size=40))
    regions = "^crop_size=16 cuts parts of images, of which regions='a.png'"
    expect(regions, lambda: DeSTSeg(**TINY, crop_size=16, regions="a.png"))
    loader = torch.utils.data.DataLoader(torch.rand(4, 3, 32, 32), batch_size=2)
    model = DeSTSeg(**TINY, **STEPS, crop_size=16)
    expect("^crop_size=16 cuts images of a data module", lambda: bench.engine().fit(model, loader, loader))


def test_a_crop_of_any_size_trains(bench: Bench) -> None:
    bench.train(crop_size=20, rotation="full")
