# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Shapes, switches and start values of the DeSTSeg network."""

import pytest
import torch

from destseg_anomalib.models.destseg.torch_model import DeSTSegModel


@pytest.fixture(scope="module")
def model() -> DeSTSegModel:
    return DeSTSegModel(pre_trained=False).eval()


@pytest.mark.parametrize("size", [(64, 64), (224, 288), (100, 76)])
@torch.no_grad()
def test_the_map_has_the_size_of_the_image_and_the_student_that_of_the_teacher(model, size) -> None:
    images = torch.rand(2, 3, *size)
    prediction = model(images)
    assert prediction.anomaly_map.shape == (2, 1, *size)
    assert prediction.pred_score.shape == (2,)
    assert ((prediction.anomaly_map >= 0) & (prediction.anomaly_map <= 1)).all()
    teacher, student = model.features(images)
    assert [t.shape for t in teacher] == [s.shape for s in student]


@pytest.mark.parametrize(
    "switch",
    [{"denoising": False}, {"encoder_decoder": False}, {"l1_loss": False}]
    + [{"segmentation_input": name} for name in ("concat", "cosine")],
)
def test_every_switch_trains_and_predicts(switch) -> None:
    model = DeSTSegModel(pre_trained=False, **switch)
    images, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    model.student_loss(images, images.flip(-1)).backward()
    assert model.student.encoder.conv1.weight.grad.abs().sum() > 0
    losses = model.segmentation_losses(images, mask, gamma=4)
    assert set(losses) == ({"focal"} if "l1_loss" in switch else {"focal", "l1"})
    sum(losses.values()).backward()
    assert model.segmentation.head[4].weight.grad.abs().sum() > 0
    assert model.eval()(images).anomaly_map.shape == (2, 1, 64, 64)


def test_without_denoising_the_student_does_not_see_the_corruption() -> None:
    model = DeSTSegModel(pre_trained=False, denoising=False).eval()
    images = torch.rand(2, 3, 64, 64)
    assert model.student_loss(images, torch.zeros_like(images)) == model.student_loss(images, images)


@torch.no_grad()
def test_without_segmentation_the_map_is_the_product_of_the_distances() -> None:
    model = DeSTSegModel(pre_trained=False, segmentation=False).eval()
    prediction = model(torch.rand(1, 3, 64, 64))
    assert prediction.anomaly_map.shape == (1, 1, 64, 64)
    with pytest.raises(RuntimeError, match="segmentation=False"):
        model.segment([], [])


def test_an_unknown_segmentation_input_is_refused() -> None:
    with pytest.raises(ValueError, match="segmentation_input='sum' is unknown"):
        DeSTSegModel(pre_trained=False, segmentation_input="sum")


def test_the_encoder_starts_as_its_identity_and_the_decoder_does_not(model) -> None:
    fresh = DeSTSegModel(pre_trained=False).student
    assert all(
        (fresh.encoder.get_submodule(f"layer{i}.{j}.bn2").weight == 0).all() for i in range(1, 5) for j in (0, 1)
    )
    assert (fresh.decoder_layer1[0].bn2.weight == 1).all()


def test_a_teacher_with_signed_maps_gets_a_student_without_a_last_relu() -> None:
    model = DeSTSegModel("tf_efficientnet_lite0", pre_trained=False).eval()
    assert model.teacher.signed
    features = model.student(torch.rand(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == model.teacher.channels == [24, 40, 112]
    assert all((f < 0).any() for f in features)


@torch.no_grad()
def test_normalisation_lives_inside_the_model() -> None:
    model = DeSTSegModel(pre_trained=False)
    grey = model.normalize(torch.full((1, 3, 2, 2), 0.5))
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(grey[0, :, 0, 0], expected)


def test_the_segmentation_phase_gives_the_student_no_gradient() -> None:
    model = DeSTSegModel(pre_trained=False)
    losses = model.segmentation_losses(torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64), gamma=4)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.student.parameters())


@pytest.mark.parametrize("top_t", [1, 100, 10_000, None])
def test_the_score_is_the_mean_of_the_highest_pixels(top_t: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DeSTSegModel(backbone="resnet18", pre_trained=False, top_t=top_t).eval()
    monkeypatch.setattr(model, "segment", lambda *_: torch.randn(2, 1, 16, 16))  # an untrained map is nearly constant
    with torch.no_grad():
        result = model(torch.rand(2, 3, 64, 64))
    highest = result.anomaly_map.flatten(start_dim=1).sort(dim=1, descending=True).values[:, : top_t or 6]  # 100 / 16
    assert result.pred_score.tolist() == pytest.approx(highest.mean(dim=1).tolist(), abs=1e-7)
