# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""PFADSeg has the published sizes, and each attention module keeps the promises of its equations."""

import copy
import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from destseg_anomalib.models.destseg.torch_model import DeSTSegModel
from destseg_anomalib.models.pfadseg.attention import (
    AttentionalFeatureFusion,
    ParallelConvolutionalAttentionRecalibration,
    RectangularSelfCalibration,
    SpatialPyramidRecalibration,
)
from destseg_anomalib.models.pfadseg.torch_model import PFADSegModel


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def giga_multiply_adds(model: PFADSegModel) -> list[float]:
    """Of the whole, the student and the segmentation network at 256², on the device `meta`, which computes nothing."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta").eval()(torch.empty(1, 3, 256, 256, device="meta"))
    whole = type(model).__name__
    counts = counter.get_flop_counts()
    return [sum(counts[part].values()) / 2e9 for part in (whole, f"{whole}.student", f"{whole}.segmentation")]


@pytest.fixture(scope="module")
def model() -> PFADSegModel:
    return PFADSegModel(pre_trained=False).eval()


def test_parameters_are_as_many_as_the_specification_counts(model) -> None:
    assert parameters(model) == 60_789_393
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 58_006_609
    assert parameters(model.student) == 51_680_304
    assert parameters(model.segmentation) == 6_326_305
    assert parameters(model.segmentation.residual) == 5_462_816
    assert parameters(model.segmentation.head) == 863_489


def test_multiply_adds_are_as_many_as_the_specification_counts(model) -> None:
    assert giga_multiply_adds(model) == pytest.approx([37.539, 10.307, 25.401], abs=1e-3)


@pytest.mark.parametrize(
    ("switches", "student", "segmentation", "multiply_adds"),
    [
        ({"pcar": False}, 26_086_464, 3_917_313, [23.042, 5.473, 15.737]),
        ({"aff": False}, 50_258_864, 6_191_393, [37.136, 10.172, 25.132]),
        ({"aff": False, "pcar": False}, 24_665_024, 3_782_401, [22.639, 5.338, 15.469]),
    ],
)
def test_switching_modules_off_leaves_the_counts_of_the_specification(
    switches, student, segmentation, multiply_adds
) -> None:
    model = PFADSegModel(pre_trained=False, **switches)
    assert parameters(model.student) == student
    assert parameters(model.segmentation) == segmentation
    assert giga_multiply_adds(model) == pytest.approx(multiply_adds, abs=1e-3)


def test_with_all_switches_off_it_is_destseg() -> None:
    ours = PFADSegModel(pre_trained=False, aff=False, pcar=False, rcm=False).state_dict()
    theirs = DeSTSegModel(pre_trained=False).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("size", [(64, 64), (224, 288), (100, 76)])
@torch.no_grad()
def test_maps_fit_the_image_and_the_teacher_at_any_size(model, size) -> None:
    images = torch.rand(1, 3, *size)
    teacher, student = model.features(images)
    assert [t.shape for t in teacher] == [s.shape for s in student]
    assert model(images).anomaly_map.shape == (1, 1, *size)


@pytest.mark.parametrize(
    ("module", "count"), [(AttentionalFeatureFusion, 67_456), (SpatialPyramidRecalibration, 24_848)]
)
def test_attention_modules_have_the_parameters_of_their_sources(module, count) -> None:
    assert parameters(module(256)) == count


def test_rectangular_calibration_has_the_parameters_of_its_source() -> None:
    assert parameters(RectangularSelfCalibration(256)) == 272_896
    assert parameters(ParallelConvolutionalAttentionRecalibration(256)) == 1_794_320


@torch.no_grad()
def test_parallel_branches_have_bounded_weights_that_sum_to_one() -> None:
    module = ParallelConvolutionalAttentionRecalibration(32)
    branches = 100 * torch.randn(3, 4, 32, 8, 8)
    weights = module.branch_weights(list(branches))
    assert weights.shape == (4, 3, 32, 1, 1)
    assert torch.allclose(weights.sum(dim=1), torch.ones(4, 32, 1, 1), atol=1e-6)
    low, high = 1 / (1 + 2 * math.e), math.e / (2 + math.e)
    assert low - 1e-6 <= weights.min() < 0.25
    assert 0.45 < weights.max() <= high + 1e-6
    equal = module.branch_weights([branches[0]] * 3)
    assert torch.allclose(equal, torch.full_like(equal, 1 / 3))


@torch.no_grad()
def test_parallel_attention_is_one_convolution_with_a_kernel_of_the_image() -> None:
    module = ParallelConvolutionalAttentionRecalibration(32)
    x = torch.randn(2, 32, 9, 8)
    weights = module.branch_weights([branch(x) for branch in module.branches])
    for index in range(2):
        kernel = sum(weights[index, i, :, :, :, None] * b.weight for i, b in enumerate(module.branches))
        expected = functional.conv2d(x[index : index + 1], kernel, padding=1)
        assert torch.allclose(module(x)[index : index + 1], expected, atol=1e-5)


@torch.no_grad()
def test_fusion_without_attention_is_the_sum() -> None:
    module = AttentionalFeatureFusion(16).eval()
    for parameter in module.parameters():
        parameter.zero_()
    x, y = torch.randn(2, 16, 5, 5), torch.randn(2, 16, 5, 5)
    assert torch.allclose(module(x, y), x + y, atol=1e-6)


@torch.no_grad()
def test_a_network_begins_with_sums_and_learns_other_weights() -> None:
    model = PFADSegModel("test_resnet", pre_trained=False).train()
    fusions = [layer for layer in model.modules() if isinstance(layer, AttentionalFeatureFusion)]
    assert len(fusions) == 18
    for fusion in fusions:
        channels = fusion.local_attention[0].in_channels
        x, y = torch.randn(4, channels, 5, 5), torch.randn(4, channels, 5, 5)
        assert torch.allclose(fusion(x, y), x + y, atol=1e-5)
    with torch.enable_grad():
        model.student_loss(torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64)).backward()
    for name, fusion in model.student.named_modules():
        if isinstance(fusion, AttentionalFeatureFusion):
            for attention in (fusion.local_attention, fusion.global_attention):
                assert attention[-1].weight.grad.abs().max() > 0, name


def test_bfloat16_keeps_the_direction_of_the_first_step() -> None:
    torch.manual_seed(0)
    model = PFADSegModel("test_resnet", pre_trained=False)
    images, gradients = torch.rand(8, 3, 64, 64), []
    for half in (False, True):
        model.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.student_loss(images, images).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.student.parameters()]))
    assert functional.cosine_similarity(*gradients, dim=0) > 0.4


@torch.no_grad()
def test_fusion_weighs_the_residual_by_w_and_the_identity_by_the_rest() -> None:
    module = AttentionalFeatureFusion(16).eval()
    for parameter in module.parameters():
        parameter.zero_()
    module.local_attention[-1].bias.fill_(100.0)  # w = 1
    x, y = torch.randn(2, 16, 5, 5), torch.randn(2, 16, 5, 5)
    assert torch.allclose(module(x, y), 2 * x, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 8), (7, 8), (9, 5), (1, 1)])
@torch.no_grad()
def test_spatial_pyramid_weighs_means_over_image_and_quarters_of_even_and_odd_maps(size) -> None:
    module = SpatialPyramidRecalibration(16)
    maps = torch.randn(2, 3 * 16, *size)
    linear, *rest = module.weights
    for actual in (module([maps]), module(maps.split(16, dim=1))):
        assert actual.shape == (2, 3, 16, 1, 1)
        for index, of_map in enumerate(maps.split(16, dim=1)):
            quarters = functional.adaptive_avg_pool2d(of_map, 2).flatten(1)
            means = torch.cat([of_map.mean(dim=(-2, -1)), quarters], dim=1)[..., None, None]
            expected = torch.nn.Sequential(*rest)(functional.conv2d(means, linear.weight, linear.bias))
            assert torch.allclose(actual[:, index], expected, atol=1e-6)


@torch.no_grad()
def test_rectangular_calibration_without_scale_is_the_identity() -> None:
    x = torch.randn(2, 8, 12, 10)
    assert torch.equal(RectangularSelfCalibration(8, layer_scale=0.0).eval()(x), x)


@torch.no_grad()
def test_rectangular_attention_reaches_along_rows_and_columns_only() -> None:
    module = RectangularSelfCalibration(32).eval().double()
    x = torch.randn(1, 32, 40, 40, dtype=torch.float64)
    moved = x.clone()
    moved[0, :, 20, 10] += 50
    changed = (module.attention(x) != module.attention(moved)).any(dim=1)[0]
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    band = ((rows - 20).abs() <= 5) | ((columns - 10).abs() <= 5)
    assert not changed[~band].any()
    assert changed[20].all()
    assert changed[:, 10].all()


def test_both_phases_give_gradients_to_their_network_only() -> None:
    model = PFADSegModel(pre_trained=False)
    images, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    model.student_loss(images, images).backward()
    assert all(p.grad is None for p in model.segmentation.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    model.zero_grad(set_to_none=True)
    sum(model.segmentation_losses(images, mask, gamma=4).values()).backward()
    assert all(p.grad is None for p in model.student.parameters())
    assert all(p.grad is not None for p in model.segmentation.parameters())
