# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Training on crops, and judging the whole picture."""

import itertools
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from lightning.pytorch import Callback

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.deployment.inference import inference_copy
from destseg_anomalib.models.windows import Windowed
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
    loaded = model_class()
    [batch] = quiet_engine(tmp_path).predict(loaded, data_path=bench.parts / "test/hole/000.png", ckpt_path=path)
    assert batch.anomaly_map.shape[-2:] == (64, 96)
    assert {layer.window for layer in loaded.model.segmentation.modules() if isinstance(layer, Windowed)} == {8}
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
    expect("^tile=0 must be at least 1", lambda: DeSTSeg(**TINY, tile=0))
    regions = "^crop_size=16 cuts parts of images, of which regions='a.png'"
    expect(regions, lambda: DeSTSeg(**TINY, crop_size=16, regions="a.png"))
    loader = torch.utils.data.DataLoader(torch.rand(4, 3, 32, 32), batch_size=2)
    model = DeSTSeg(**TINY, **STEPS, crop_size=16)
    expect("^crop_size=16 cuts images of a data module", lambda: bench.engine().fit(model, loader, loader))


def test_a_crop_of_any_size_trains(bench: Bench) -> None:
    bench.train(crop_size=20, rotation="full")


def test_pictures_of_mixed_sizes_and_a_tile_larger_than_they_train_and_are_judged(bench: Bench, tmp_path: Path) -> None:
    for path, size in zip(sorted(bench.parts.rglob("0*.png")), itertools.cycle([(40, 90), (200, 70), (64, 96)])):
        if "ground_truth" not in str(path) and "hole" not in str(path):
            cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), size))
    model, *_ = trained(DeSTSeg, bench, tmp_path, tile=500)
    assert quiet_engine(tmp_path).test(model, datamodule=bench.data(), verbose=False)[0]["IAP"] >= 0


def test_anomalibs_callback_cuts_what_is_judged(bench: Bench, tmp_path: Path) -> None:
    _, path, _ = trained(DeSTSeg, bench, tmp_path)
    picture = bench.parts / "test/hole/000.png"

    def map_of(*callbacks: Callback, **arguments: Any) -> torch.Tensor:
        model = DeSTSeg.load_from_checkpoint(path, **arguments)
        [batch] = quiet_engine(tmp_path, callbacks=[*callbacks]).predict(model, data_path=picture)
        return batch.anomaly_map

    cut = map_of(TilerConfigurationCallback(enable=True, tile_size=32, stride=28))
    assert torch.equal(cut, map_of(tile=32))
    assert not torch.equal(cut, map_of())


@pytest.mark.parametrize("model_class", [DeSTSeg, PFADSeg])
def test_an_exported_file_takes_the_native_picture_and_judges_the_same_tiles(
    model_class, tmp_path: Path, caplog
) -> None:
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    model = model_class(**LARGE, crop_size=32, tile=48).eval()
    for name, value in model.post_processor.state_dict().items():  # what a validation would leave
        value.fill_(0.5 if "threshold" in name else float(name.endswith("max")))
    model.model.segmentation.head[-1].weight.data *= 100  # an untrained map is nearly constant
    path = model.to_onnx(tmp_path)
    images = torch.rand(2, 3, 120, 150)
    with torch.no_grad():
        expected = model(images).anomaly_map
    assert expected.std() > 1e-3
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for run in (
        lambda given: dict(zip(names, session.run(names, {"input": given}), strict=True)),
        lambda given: {output.get_any_name(): value for output, value in compiled(given).items()},
    ):
        found = torch.from_numpy(run(images.numpy())["anomaly_map"])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    onnx = pytest.importorskip("onnx")
    convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in inference_copy(model.model).modules())
    [loop] = [node for node in onnx.load(path).graph.node if node.op_type == "Scan"]
    [body] = [attribute.g for attribute in loop.attribute if attribute.name == "body"]
    assert sum(node.op_type == "Conv" for node in body.node) < 1.1 * convolutions  # and not as many for each tile
    assert [entry for entry in caplog.records if entry.levelname == "WARNING"] == []
