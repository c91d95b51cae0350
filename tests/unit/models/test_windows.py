# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Networks that are trained on crops look, wherever they average, no further than a crop."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from destseg_anomalib.deployment.inference import inference_copy
from destseg_anomalib.models.blocks import AtrousSpatialPyramidPooling, PartlyPooledConv
from destseg_anomalib.models.destseg import DeSTSegModel
from destseg_anomalib.models.pfadseg import PFADSegModel
from destseg_anomalib.models.pfadseg.attention import (
    AttentionalFeatureFusion,
    ParallelConvolutionalAttentionRecalibration,
    RectangularSelfCalibration,
)
from destseg_anomalib.models.windows import (
    COLUMNS,
    ROWS,
    Windowed,
    look_no_further,
    means_along,
    quarter_means,
    spread,
    window_means,
)

MODELS = [DeSTSegModel, PFADSegModel]
LAYERS = [
    AtrousSpatialPyramidPooling,
    AttentionalFeatureFusion,
    ParallelConvolutionalAttentionRecalibration,
    RectangularSelfCalibration,
]


class Averaged(TorchDispatchMode):
    """Notes the most pixels of a map along an axis that a mean was taken over."""

    longest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name, maps = func.overloadpacket.__name__, args[0]
        if name == "mean" and maps.dim() == 4:
            axes = {axis % 4 for axis in args[1]} & {ROWS, COLUMNS}
            self.longest = max([self.longest, *(maps.shape[axis] for axis in axes)])
        assert "avg_pool" not in name, "a mean over all of a map"
        return result


@pytest.mark.parametrize("crop", [64, 52])
@pytest.mark.parametrize("model_class", MODELS)
def test_windows_are_as_large_as_the_maps_of_a_crop_in_all_layers_that_average(model_class, crop) -> None:
    model = model_class(pre_trained=False, crop_size=crop).eval()
    windows, maps = [], []
    for layer in model.modules():
        if isinstance(layer, Windowed) and not isinstance(layer, nn.Conv2d):  # these read what a layer has averaged
            layer.register_forward_pre_hook(lambda layer, inputs: windows.append((layer.window, layer.window)))
            layer.register_forward_pre_hook(lambda layer, inputs: maps.append(tuple(inputs[0].shape[-2:])))
    model(torch.rand(1, 3, crop, crop))
    assert windows == maps != []


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("model_class", MODELS)
def test_nothing_averages_further_than_a_crop_and_a_crop_is_judged_as_without_windows(model_class, folded) -> None:
    model = model_class(pre_trained=False, crop_size=64).eval()
    other = model_class(pre_trained=False).eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 160, 96)
    with torch.no_grad():
        assert torch.equal(model(images[..., :64, :64]).anomaly_map, other(images[..., :64, :64]).anomaly_map)
        network = inference_copy(model) if folded else model
        with Averaged() as seen:
            found = network(images).anomaly_map
        assert seen.longest == 64 / 4
        assert not torch.equal(found, other(images).anomaly_map)


def sample(layer: type[nn.Module], maps: torch.Tensor) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    module = layer(16).eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
    return module, (maps, maps.flip(1)) if layer is AttentionalFeatureFusion else (maps,)


@pytest.mark.parametrize("layer", LAYERS)
def test_where_all_windows_see_the_same_a_layer_says_what_it_says_of_the_whole(layer) -> None:
    module, inputs = sample(layer, torch.rand(2, 16, 4, 4).repeat(1, 1, 10, 8))  # windows begin every fourth pixel
    with torch.no_grad():
        expected = module(*inputs)
        look_no_further(module, 16)
        # But for the maps' border, beyond which the convolutions before a mean see nothing.
        torch.testing.assert_close(module(*inputs), expected, rtol=0, atol=4e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_far_away_changes_nothing(layer) -> None:
    module, inputs = sample(layer, torch.rand(1, 16, 12, 90))
    far_away = tuple(maps.clone() for maps in inputs)
    for maps in far_away:
        maps[..., 60:] += 1
    with torch.no_grad():
        assert not torch.allclose(module(*inputs)[..., :20], module(*far_away)[..., :20])
        look_no_further(module, 16)
        torch.testing.assert_close(module(*inputs)[..., :20], module(*far_away)[..., :20])


@pytest.mark.parametrize("model_class", MODELS)
def test_under_bfloat16_windows_change_no_type_and_little_of_the_map(model_class) -> None:
    model, images = model_class("test_resnet", pre_trained=False, crop_size=64).eval(), torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        expected = model(images).anomaly_map
    types = []
    for layer in model.modules():
        if isinstance(layer, Windowed) and not isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, inputs, output: types.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(images).anomaly_map, expected, rtol=0, atol=0.05)
        of_a_picture = [*types]
        model(images[..., :64, :64])
    assert types == 2 * of_a_picture


@pytest.mark.parametrize("side", [1, 4, 5, 16])
def test_means_are_those_of_windows_from_border_to_border(side) -> None:
    maps = torch.rand(1, 2, 16, 37, dtype=torch.float64)
    every = functional.avg_pool2d(maps, side, stride=1)
    means, quarters = window_means(maps, side), quarter_means(maps, side)
    assert quarters.shape == (1, 2, 2 * means.shape[-2], 2 * means.shape[-1])
    for found, expected in (
        (means[..., 0, 0], every[..., 0, 0]),
        (means[..., -1, -1], every[..., -1, -1]),
        (quarters[..., :2, :2], functional.adaptive_avg_pool2d(maps[..., :side, :side], 2)),
        (quarters[..., -2:, -2:], functional.adaptive_avg_pool2d(maps[..., -side:, -side:], 2)),
    ):
        torch.testing.assert_close(found, expected)
    assert torch.equal(means_along(maps, None, COLUMNS), maps.mean(dim=-1, keepdim=True))


def test_a_place_gets_the_mean_of_the_window_around_it() -> None:
    ramp = torch.arange(60.0).expand(1, 1, 30, -1)
    found = spread(window_means(ramp, 8), ramp.shape[-2:], 8)
    middles = (torch.arange(60.0) + 0.5).clamp(3.5, 55.5)  # of windows of eight, of which one begins at each pixel
    torch.testing.assert_close(found, middles.expand(1, 1, 30, -1))


@pytest.mark.parametrize("size", [(40, 33), (3, 40), (2, 9), (1, 40)])
def test_a_convolution_of_equal_means_is_a_plain_one(size) -> None:
    conv, side = PartlyPooledConv(3, 5, 4).double(), 4
    look_no_further(conv, side)
    value, varying = torch.rand(2, 3, 1, 1).double(), torch.rand(2, 5, *size).double()
    means = window_means(value.expand(-1, -1, *size), side)
    assert means[0, 0].numel() > 1
    plain = functional.conv2d(torch.cat([value.expand(-1, -1, *size), varying], dim=1), conv.weight, padding=1)
    torch.testing.assert_close(conv(means, varying), plain)
