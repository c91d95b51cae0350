# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The file that `TorchInferencer` reads answers as the model does, in plain tensors, and leaves the model alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.deploy import TorchInferencer
from PIL import Image

from destseg_anomalib import DeSTSeg, PFADSeg

FIELDS = ("pred_score", "anomaly_map", "pred_label", "pred_mask")


def learned(model: Any) -> Any:
    """Give the post-processor what a validation would."""
    for name, value in model.post_processor.state_dict().items():
        value.fill_(0.5 if "threshold" in name else float(name.endswith("max")))
    return model.eval()


@pytest.fixture(params=[DeSTSeg, PFADSeg])
def model(request) -> Any:
    return learned(request.param("test_resnet", pre_trained=False, image_size=(64, 64)))


@pytest.fixture
def inferencer(model, tmp_path, monkeypatch) -> TorchInferencer:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    return TorchInferencer(model.to_torch(tmp_path), device="cpu")


@pytest.fixture
def picture(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 72, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "part.png")
    return tmp_path / "part.png"


def test_every_field_is_plain_and_the_models_own_answer(model, inferencer, picture) -> None:
    image = Image.open(picture)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = model(pixels)
    for given in (picture, str(picture), image, np.array(image), pixels[0], pixels):
        prediction = inferencer.predict(given)
        for name in FIELDS:
            assert np.allclose(getattr(prediction, name).numpy(), getattr(expected, name).numpy(), atol=1e-6), name


def test_a_batch_is_answered_like_its_images(inferencer) -> None:
    images = torch.rand(3, 3, 80, 72)
    together = inferencer.predict(images)
    for index, image in enumerate(images):
        alone = inferencer.predict(image)
        assert np.allclose(together.anomaly_map[index].numpy(), alone.anomaly_map[0].numpy(), atol=1e-5)


def test_a_file_of_a_grey_picture_is_answered_like_the_same_in_colour(inferencer, picture, tmp_path) -> None:
    grey = Image.open(picture).convert("L")
    grey.save(tmp_path / "grey.png")
    expected = inferencer.predict(grey.convert("RGB")).anomaly_map.numpy()
    assert np.allclose(inferencer.predict(tmp_path / "grey.png").anomaly_map.numpy(), expected, atol=1e-6)


def test_a_tensor_of_bytes_is_refused_in_a_sentence(inferencer) -> None:
    with pytest.raises(ValueError, match=r"^The model was given images of torch\.uint8: .*\.$"):
        inferencer.predict(torch.zeros(3, 80, 72, dtype=torch.uint8))


def test_gradients_of_an_image_are_there_for_whoever_asks(inferencer) -> None:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    inferencer.predict(image).anomaly_map.sum().backward()
    assert image.grad is not None


@pytest.mark.parametrize("error", [None, OSError("no space left")])
def test_the_model_itself_trains_on_after_the_export(model, error, tmp_path, monkeypatch) -> None:
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    if error is not None:
        monkeypatch.setattr(torch, "save", lambda *args, **kwargs: (_ for _ in ()).throw(error))
        with pytest.raises(OSError, match="no space"):
            model.to_torch(tmp_path)
    else:
        model.to_torch(tmp_path)
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before
    assert any(before.values())
