# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The attention modules of PFADSeg (arXiv 2501.12104, Sec. 3), and where the paper takes them from.

The paper describes them briefly and in places inconsistently; the model card gives each reading and its reason.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from destseg_anomalib.models.blocks import conv3x3
from destseg_anomalib.models.windows import (
    COLUMNS,
    ROWS,
    Windowed,
    means_along,
    quarter_means,
    spread,
    spread_along,
    window_means,
)

conv1x1 = partial(nn.Conv2d, kernel_size=1)


class AttentionalFeatureFusion(Windowed):
    r"""Weighs two feature maps against each other instead of adding them (AFF: Dai et al., WACV 2021, Eq. 1 and 3).

    With :math:`w = \sigma(L(x + y) + G(x + y))`, a local and a global channel attention of their own weights, the
    result is :math:`2 w x + 2 (1 - w) y`. The factor 2 is that of the authors' code: at :math:`w = 1/2` the module is
    the plain sum.

    Args:
        channels: Channels of both maps.
        reduction: By how much the attention narrows them.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.local_attention = self._attention(channels, channels // reduction)
        self.global_attention = self._attention(channels, channels // reduction)

    @staticmethod
    def _attention(channels: int, narrow: int) -> nn.Sequential:
        return nn.Sequential(
            conv1x1(channels, narrow),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            conv1x1(narrow, channels),
            nn.BatchNorm2d(channels),
        )

    def begin_as_sum(self) -> None:
        """Have both attentions end in a batch norm of scale 0, so that w is 1/2, in place."""
        for attention in (self.local_attention, self.global_attention):
            nn.init.zeros_(attention[-1].get_parameter("weight"))

    def forward(self, residual: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        """Fuse two maps (N, channels, H, W); in training N is at least 2, for the batch norm of the pooled branch."""
        total = residual + identity
        pooled = self.global_attention(window_means(total, self.window))
        weight = (self.local_attention(total) + spread(pooled, total.shape[-2:], self.window)).sigmoid()
        return 2 * torch.lerp(identity, residual, weight)


class PyramidLinear(Windowed, nn.Conv2d):
    """Linear layer over the means of a map over the image and over its quarters, channel by channel.

    Args:
        channels: Channels C of the map; the layer has 5 C inputs, the C means over the image first.
        out_channels: Outputs.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(5 * channels, out_channels, kernel_size=1)
        self.channels = channels

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Map tensors (N, K C, H, W), each with K maps an image and M in all, to (N M, out_channels, h, w)."""
        of_whole, of_quarters = self.weight[:, : self.channels], self.weight[:, self.channels :]
        of_quarters = of_quarters.view(-1, self.channels, 2, 2)
        quarters = self._joined([quarter_means(x, self.window) for x in maps])
        if all(min(length, self.window or length) % 2 == 0 for length in maps[0].shape[-2:]):
            # The mean over a window is the mean of these four.
            return functional.conv2d(quarters, torch.add(of_quarters, of_whole, alpha=1 / 4), self.bias, stride=2)
        whole = self._joined([window_means(x, self.window) for x in maps])
        return functional.conv2d(quarters, of_quarters, self.bias, stride=2) + functional.conv2d(whole, of_whole)

    def _joined(self, pooled: Sequence[torch.Tensor]) -> torch.Tensor:
        """Make one tensor (N M, C, h, w) of all maps."""
        return torch.cat([x.unflatten(1, (-1, self.channels)) for x in pooled], dim=1).flatten(0, 1)


class SpatialPyramidRecalibration(nn.Module):
    """Weight of every channel from its means over the image and over its quarters (SPR: MSPANet, Sec. 3.2).

    Args:
        channels: Channels of the map.
        reduction: By how much the two linear layers narrow them.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        narrow = max(channels // reduction, 1)
        self.weights = nn.Sequential(
            PyramidLinear(channels, narrow), nn.ReLU(), conv1x1(narrow, channels), nn.Sigmoid()
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map tensors (N, K channels, H, W), M maps an image in all, to weights (N, M, channels, h, w) in (0, 1)."""
        return self.weights(maps).unflatten(0, (maps[0].shape[0], -1))


class ParallelConvolutionalAttentionRecalibration(Windowed):
    r"""Three parallel 3x3 convolutions whose channels compete for weight (PCAR: PFADSeg, Sec. 3.2, Eq. 5 to 9).

    :math:`F_i = K_i * F`, :math:`a_i = \mathrm{SPR}(F_i)` with one SPR for all,
    :math:`w = \mathrm{softmax}_i(a_i)` per channel, :math:`Y = \sum_i w_i F_i`. Since the sigmoid bounds
    :math:`a_i`, every weight lies in (0.1554, 0.5761).

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.branches = nn.ModuleList(conv3x3(channels, channels) for _ in range(3))
        self.recalibration = SpatialPyramidRecalibration(channels)

    def fold(self) -> None:
        """Make one convolution of the three, for a network that only infers."""
        joined = conv3x3(self.channels, 3 * self.channels, device="meta")  # it draws no numbers that nothing would use
        joined.weight = nn.Parameter(torch.cat([*self.branches.parameters()]), requires_grad=False)
        self.branches = nn.ModuleList([joined])

    def branch_weights(self, branches: Sequence[torch.Tensor]) -> torch.Tensor:
        """Weigh the branches, three (N, channels, H, W) or one with all, as (N, 3, channels, h, w); sums are 1."""
        return self.recalibration(branches).softmax(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels, H, W) to the same shape."""
        branches = [branch(x) for branch in self.branches]
        weights = self.branch_weights(branches).to(branches[0].dtype)  # autocast on a GPU makes them float32
        w1, w2, w3 = (spread(weight, x.shape[-2:], self.window) for weight in weights.unbind(dim=1))
        channels = self.channels
        y1, y2, y3 = (y[:, i : i + channels] for y in branches for i in range(0, y.shape[1], channels))
        # Not the sum of a stack, which copies all three, and into another layout than the convolutions around it use.
        return torch.addcmul(torch.addcmul(w1 * y1, w2, y2), w3, y3)


class RectangularSelfCalibration(Windowed):
    r"""Context along rows and columns (RCM: CGRSeg, ECCV 2024, Sec. 3.2).

    With :math:`g` the sum of the means over rows and over columns, strip convolutions give the attention
    :math:`A = \sigma(\mathrm{DW}_{k \times 1}(\mathrm{ReLU}(\mathrm{BN}(\mathrm{DW}_{1 \times k}(g)))))`, and the
    result is :math:`x + \gamma\,\mathrm{MLP}(\mathrm{BN}(A \cdot \mathrm{DW}_{3 \times 3}(x)))`.

    Args:
        channels: Channels of input and output.
        layer_scale: Start value of :math:`\gamma`. CGRSeg's 1e-6 suits its AdamW; under the SGD of PFADSeg the module
            would not leave the identity within the training.
        kernel_size: Length of the strips, odd.
    """

    def __init__(self, channels: int, layer_scale: float = 1.0, kernel_size: int = 11) -> None:
        super().__init__()
        depthwise = partial(nn.Conv2d, channels, channels, groups=channels)
        half = kernel_size // 2
        self.local = depthwise(kernel_size=3, padding=1)
        self.strips = nn.Sequential(
            depthwise(kernel_size=(1, kernel_size), padding=(0, half)),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            depthwise(kernel_size=(kernel_size, 1), padding=(half, 0)),
            nn.Sigmoid(),
        )
        self.norm = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(conv1x1(channels, 2 * channels), nn.GELU(), conv1x1(2 * channels, channels))
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), layer_scale))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels, H, W) to weights of the same shape in (0, 1)."""
        of_rows, of_columns = (means_along(x, self.window, axis) for axis in (COLUMNS, ROWS))
        of_rows = spread_along(of_rows, x.shape[COLUMNS], self.window, COLUMNS)
        return self.strips(of_rows + spread_along(of_columns, x.shape[ROWS], self.window, ROWS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return x + self.gamma * self.mlp(self.norm(self.attention(x) * self.local(x)))
