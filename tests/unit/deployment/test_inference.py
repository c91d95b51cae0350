# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The inference copy gives the original's answer with fewer layers, and leaves the original alone."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from destseg_anomalib.deployment.inference import inference_copy
from destseg_anomalib.models.destseg import DeSTSegModel
from destseg_anomalib.models.pfadseg import PFADSegModel
from tests.conftest import NoFloat64


def with_statistics(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and an affine map of its own, as training would."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: DeSTSegModel(pre_trained=False), 0),
        (lambda: DeSTSegModel("tf_efficientnet_lite0", pre_trained=False), 0),  # its norms contain the activation
        (lambda: PFADSegModel(pre_trained=False), 19),  # those that follow a weighted sum and not a convolution
    ],
    ids=["DeSTSeg", "DeSTSeg, EfficientNet", "PFADSeg"],
)
def test_the_copy_gives_the_same_answer_without_batch_norms(make, left) -> None:
    model = with_statistics(make())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers, copy = torch.get_rng_state(), inference_copy(model)
    assert torch.equal(torch.get_rng_state(), numbers)  # or a test would change the training that follows it
    images = torch.rand(2, 3, 64, 96)
    assert norms(copy) == left < norms(model)
    with torch.inference_mode():
        expected, actual = model(images), copy(images)
    assert expected.anomaly_map.std() > 1e-4
    # Float32 itself leaves 2e-5 here: PFADSeg's own answer differs by that between a batch of 1 and a batch of 2.
    assert torch.allclose(actual.anomaly_map, expected.anomaly_map, atol=1e-4)
    assert torch.allclose(actual.pred_score, expected.pred_score, atol=1e-4)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_copy_for_bfloat16_has_its_weights_and_stays_near_the_answer() -> None:
    model = with_statistics(DeSTSegModel(pre_trained=False))
    copy, images = inference_copy(model, torch.bfloat16), torch.rand(2, 3, 64, 64)
    assert {layer.weight.dtype for layer in copy.modules() if isinstance(layer, nn.Conv2d)} == {torch.bfloat16}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        actual, expected = copy(images), model(images)
    assert actual.anomaly_map.dtype == torch.float32
    assert torch.allclose(actual.anomaly_map, expected.anomaly_map, atol=0.05)


@pytest.mark.parametrize("model_class", [DeSTSegModel, PFADSegModel])
def test_a_gpu_without_float64_makes_a_copy_on_itself(model_class, monkeypatch) -> None:
    model = model_class("test_resnet", pre_trained=False).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), NoFloat64():
        model.to("cuda:0")
        monkeypatch.setattr(model_class, "to", lambda self, **_: self)  # a fake tensor cannot be laid out anew
        copy = inference_copy(model)
        assert copy(torch.rand(2, 3, 64, 64, device="cuda:0")).anomaly_map.device.type == "cuda"
    assert {(value.device.type, value.dtype) for value in copy.parameters()} == {("cuda", torch.float32)}
