# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A copy of a trained network that only infers: batch norms and what else may go are folded into convolutions.

The copy shares nothing with the original: what is trained and saved stays as it is. Exported files are made of it,
and a test or a prediction asks it.
"""

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Network = TypeVar("Network", bound=nn.Module)

PROBE_SIZE = 64  # height and width in pixels of the image that is watched on its way through the network


def inference_copy(model: Network, dtype: torch.dtype | None = None) -> Network:
    """Copy a network of images, fold batch norms in the copy, and lay its memory out channels-last.

    Folding is done in float64, so the copy's answer differs from the original's by the rounding of float32 only. Layers
    with a method `fold` are asked to simplify themselves as well.

    Args:
        model: Network that takes images (N, 3, H, W) in [0, 1]; not changed.
        dtype: Type of the convolutions' weights, for a copy that will be called under `torch.autocast` of that type:
            it then converts no weights in a call. None keeps the type.

    Returns:
        Copy in eval mode, without gradients, on the device of the original.

    Example:
        >>> from destseg_anomalib.models.destseg import DeSTSegModel
        >>> model = DeSTSegModel(pre_trained=False).eval()
        >>> copy = inference_copy(model)
        >>> sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in copy.modules())
        0
        >>> image = torch.rand(1, 3, 64, 64)
        >>> bool((copy(image).anomaly_map - model(image).anomaly_map).abs().max() < 1e-4)
        True
    """
    copy = deepcopy(model).eval().requires_grad_(requires_grad=False)
    for norm, conv in _norms_after_convolutions(copy).items():
        _fold(copy, conv, norm)
    for layer in [*copy.modules()]:
        getattr(layer, "fold", lambda: None)()
    if dtype is not None:
        for layer in copy.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype=dtype)
    return copy.to(memory_format=torch.channels_last)


def _norms_after_convolutions(model: nn.Module) -> dict[str, str]:
    """Name the batch norms that read what a convolution has written, each with the name of that convolution.

    One image, watched on its way, tells so for any backbone; the order of the layers' attributes would only suggest it.
    """
    names: dict[nn.Module, str] = {
        layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
    }
    written: list[tuple[torch.Tensor, str]] = []
    pairs: dict[str, str] = {}

    def after_convolution(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        written.append((output, names[layer]))

    def before_norm(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        for output, name in written:
            if output is inputs[0]:
                pairs[names[layer]] = name

    hooks = [
        layer.register_forward_hook(after_convolution)
        if isinstance(layer, nn.Conv2d)
        else layer.register_forward_pre_hook(before_norm)
        for layer in names
    ]
    like = next(model.parameters())
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        model(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, dtype=like.dtype, device=like.device))
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    """Put a batch norm into the convolution before it; the activation that some of timm's norms contain stays."""
    conv: Any = model.get_submodule(conv_name)
    norm: Any = model.get_submodule(norm_name)
    like = conv.weight
    fused = fuse_conv_bn_weights(
        _exact(like),
        _exact(conv.bias),
        _exact(norm.running_mean),
        _exact(norm.running_var),
        norm.eps,
        _exact(norm.weight),
        _exact(norm.bias),
    )
    conv.weight, conv.bias = (nn.Parameter(part.to(like.dtype).to(like.device), requires_grad=False) for part in fused)
    rest = nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
    model.set_submodule(norm_name, rest)


def _exact(part: Any) -> Any:  # noqa: ANN401
    """Make a tensor, or None, one of float64, on the CPU, since not every GPU has such numbers."""
    return None if part is None else part.cpu().double()
