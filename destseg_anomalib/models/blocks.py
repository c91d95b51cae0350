# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Building blocks that both networks share: the residual block, a stage of them, and the atrous pyramid."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from .windows import COLUMNS, ROWS, Windowed, spread_along, window_means

ASPP_RATES = (6, 12, 18)  # dilations in pixels of a map at a quarter of the image's size

conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)

BlockFactory = Callable[[int, int, int], nn.Module]
"""Makes a residual block from (input channels, output channels, stride)."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity path (ResNet, Sec. 4.1, the block of ResNet18).

    ``out = relu(bn(conv(relu(bn(conv(x))))) + identity)``; the identity is a 1x1 convolution and a batch norm
    where the stride or the number of channels changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution and of the projection.
        second: Makes what stands in place of the second convolution, from a number of channels.
        fusion: Makes what stands in place of the sum, a module of (residual, identity), from a number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        second: Callable[[int], nn.Module] | None = None,
        fusion: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = second(out_channels) if second else conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.fusion = fusion(out_channels) if fusion else None
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out, identity = self.bn2(self.conv2(out)), self.downsample(x)
        return functional.relu(self.fusion(out, identity) if self.fusion else out + identity)


def stage(block: BlockFactory, in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Two blocks in a row; the first one changes resolution and channels."""
    return nn.Sequential(block(in_channels, out_channels, stride), block(out_channels, out_channels, 1))


def init_kaiming(module: nn.Module) -> None:
    """Draw convolutions from a Kaiming normal (fan out, ReLU), with biases 0 and batch norms 1 and 0, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; the spatial size is kept."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        padding = dilation * (kernel_size // 2)
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        super().__init__()
        self.add_module("conv", conv)
        self.add_module("norm", nn.BatchNorm2d(out_channels))
        self.add_module("relu", nn.ReLU())


class PartlyPooledConv(Windowed, nn.Conv2d):
    """3x3 convolution of channels of which the first are means over windows, without the work that this spares.

    A convolution is a sum over its input channels, and that of means is one value a window, too, but for the border,
    where the kernel reaches over the edge: three rows and three columns of each window stand for all.

    Args:
        pooled: Channels with one value a window.
        varying: Channels with a value at every pixel.
        out_channels: Channels of the output.
    """

    def __init__(self, pooled: int, varying: int, out_channels: int) -> None:
        super().__init__(pooled + varying, out_channels, kernel_size=3, padding=1, bias=False)
        self.channels = [pooled, varying]

    def forward(self, pooled: torch.Tensor, varying: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Convolve means (N, C, h, w) and maps (N, D, H, W), as if the means were maps and stood before the maps.

        Means that differ are taken to be the same in the eight pixels around one, before what is made of them is spread
        over the pixels between their windows' middles; one mean is convolved exactly.
        """
        of_pooled, of_varying = self.weight.split(self.channels, dim=1)
        height, width = varying.shape[-2:]
        windows = pooled.shape[-2:]
        rows, columns = (min(length, 3) if n == 1 else 3 for n, length in zip(windows, (height, width), strict=True))
        if windows == (1, 1):
            blocks = pooled.expand(-1, -1, rows, columns)
        else:
            blocks = pooled[:, :, :, None, :, None].expand(-1, -1, -1, rows, -1, columns).flatten(4, 5).flatten(2, 3)
        out = functional.conv2d(blocks, of_pooled, padding=1)
        out = self._spread_blocks(self._spread_blocks(out, height, ROWS), width, COLUMNS)
        # In this order the sum is laid out channels-last, as the convolution is, and so is what is made of it.
        return functional.conv2d(varying, of_varying, self.bias, padding=1) + out

    def _spread_blocks(self, blocks: torch.Tensor, length: int, axis: int) -> torch.Tensor:
        """Spread blocks of three lines along an axis: the first line, between it and the last the middle ones."""
        if blocks.shape[axis] == length <= 3:
            return blocks
        middle = blocks[(slice(None),) * axis + (slice(1, None, 3),)]
        middle = spread_along(middle, length, self.window, axis)
        middle = middle.expand([length if other == axis else -1 for other in range(4)])
        ends = blocks.narrow(axis, 0, 1), blocks.narrow(axis, -1, 1)
        return torch.cat([ends[0], middle.narrow(axis, 1, length - 2), ends[1]], axis)


class AtrousSpatialPyramidPooling(Windowed):
    """Context at four ranges (ASPP, DeepLabv3, Sec. 3.3, in the shape the official DeSTSeg code gives it).

    A global average branch and three dilated 3x3 convolutions, concatenated and fused by a 3x3 convolution. There is
    no 1x1 branch. The pooled branch has one value an image and channel, so its batch norm cannot train on one image.

    Args:
        channels: Channels of the input, of each branch and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pooled = ConvNormReLU(channels, channels, kernel_size=1)
        self.dilated = nn.ModuleList(ConvNormReLU(channels, channels, 3, dilation=rate) for rate in ASPP_RATES)
        self.fuse = nn.Sequential()
        self.fuse.add_module("conv", PartlyPooledConv(channels, 3 * channels, channels))
        self.fuse.add_module("norm", nn.BatchNorm2d(channels))
        self.fuse.add_module("relu", nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels, H, W) to the same shape."""
        # A bilinear upsampling of one pixel, as in the official code, is that pixel everywhere.
        pooled = self.pooled(window_means(x, self.window))
        dilated = torch.cat([branch(x) for branch in self.dilated], dim=1)
        conv, norm, relu = self.fuse
        return relu(norm(conv(pooled, dilated)))
