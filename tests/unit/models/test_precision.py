# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Copies in half precision, mixed precision and gradients: the map is the float32 one's."""

from copy import deepcopy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from destseg_anomalib.models.destseg import DeSTSegModel
from destseg_anomalib.models.pfadseg import PFADSegModel
from destseg_anomalib.models.student_teacher import StudentTeacherModel
from tests.conftest import assert_near

VARIANTS = {
    "DeSTSeg": lambda: DeSTSegModel("test_resnet", pre_trained=False),
    "DeSTSeg, concat": lambda: DeSTSegModel("test_resnet", pre_trained=False, segmentation_input="concat"),
    "DeSTSeg, cosine": lambda: DeSTSegModel("test_resnet", pre_trained=False, segmentation_input="cosine"),
    "DeSTSeg, distances": lambda: DeSTSegModel("test_resnet", pre_trained=False, segmentation=False),
    "PFADSeg": lambda: PFADSegModel("test_resnet", pre_trained=False),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def model(request) -> StudentTeacherModel:
    model = request.param().eval()
    if model.segmentation is not None:
        model.segmentation.head[-1].weight.data *= 100  # an untrained map is nearly constant
    return model


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.2), (torch.bfloat16, 1.0), (torch.float64, 0.01)])
def test_a_copy_of_another_precision_maps_images_of_any_precision_alike(model, dtype, limit) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        copy = deepcopy(model).to(dtype)
        assert_near(copy(images), expected, limit)
        assert_near(copy(images.to(dtype)), expected, limit)


def test_a_copy_in_half_precision_trains_in_both_phases(model) -> None:
    images, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    copy = deepcopy(model).to(torch.bfloat16).train()
    losses = [copy.student_loss(images, images.flip(-1))]
    if copy.segmentation is not None:
        losses += copy.segmentation_losses(images, mask, gamma=4).values()
    assert all(loss.dtype == torch.float32 for loss in losses)
    sum(losses).backward()
    assert torch.isfinite(copy.student.encoder.conv1.weight.grad).all()


@pytest.mark.parametrize("model", [VARIANTS["DeSTSeg"], VARIANTS["PFADSeg"]], ids=["DeSTSeg", "PFADSeg"], indirect=True)
def test_operations_that_mixed_precision_rounds_and_others_meet_on_a_gpu_as_well(model, monkeypatch) -> None:
    """A GPU keeps other operations in float32 than a CPU does; a fake one tells of what types cannot meet."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to("cuda:0")
        images = torch.rand(2, 3, 64, 64, device="cuda:0")
        with torch.autocast("cuda", torch.float16):
            losses = [model.student_loss(images, images), *model.segmentation_losses(images, images[:, :1], 4).values()]
            prediction = model(images)
    assert {loss.dtype for loss in losses} == {prediction.anomaly_map.dtype} == {torch.float32}


def test_gradients_are_there_for_whoever_asks(model) -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    model(images).anomaly_map.sum().backward()
    assert images.grad.abs().sum() > 0
    assert model.student.encoder.conv1.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.teacher.parameters())


def test_images_of_integers_are_refused_in_a_sentence(model) -> None:
    with pytest.raises(ValueError, match=r"images of torch\.uint8: pass floating point between 0 and 1, as images"):
        model(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
