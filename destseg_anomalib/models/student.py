# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The denoising student: a ResNet18-shaped encoder and, if wanted, a decoder that mirrors it."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

from .blocks import BlockFactory, init_kaiming, stage

ENCODER_WIDTHS = (64, 128, 256, 512)


class Encoder(nn.Module):
    """Stem and four stages of ResNet18, built from a given block.

    Args:
        block: Makes the residual blocks.
        stages: How many of the four stages to build.
    """

    def __init__(self, block: BlockFactory, stages: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        self.stages = stages
        for level, width in enumerate(ENCODER_WIDTHS[:stages], start=1):
            self.add_module(f"layer{level}", stage(block, in_channels, width, stride=1 if level == 1 else 2))
            in_channels = width

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map images (N, 3, H, W) to maps at strides 4, 8, 16 and 32, finest first."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for level in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{level}")(x)
            maps.append(x)
        return maps


class Student(nn.Module):
    """Student network (DeSTSeg, Sec. 3.2, Fig. 2; layers in the official code's shape).

    The decoder upsamples to the exact size of the encoder's map before each of its last three stages, and has no skip
    connections: what the anomaly did to the encoder's fine maps cannot leak past the bottleneck.

    Args:
        block: Makes the residual blocks.
        channels: Channels of the teacher's three maps, finest first.
        signed: Whether the teacher's maps have negative values. A stage that ends in ReLU cannot match those, so each
            level then ends in a 1x1 convolution; the decoder keeps the widths of the encoder.
        encoder_decoder: False gives the ablation without a decoder: the encoder's first three maps are the output.
    """

    def __init__(
        self,
        block: BlockFactory,
        channels: Sequence[int],
        *,
        signed: bool = False,
        encoder_decoder: bool = True,
    ) -> None:
        super().__init__()
        self.encoder_decoder = encoder_decoder
        widths = ENCODER_WIDTHS[:3] if signed or not encoder_decoder else tuple(channels)
        self.encoder = Encoder(block, stages=4 if encoder_decoder else 3)
        if encoder_decoder:
            self.decoder_layer4 = stage(block, 512, 512)
            self.decoder_layer3 = stage(block, 512, widths[2])
            self.decoder_layer2 = stage(block, widths[2], widths[1])
            self.decoder_layer1 = stage(block, widths[1], widths[0])
        self.projections = nn.ModuleList(
            nn.Conv2d(width, channel, kernel_size=1) if signed or width != channel else nn.Identity()
            for width, channel in zip(widths, channels, strict=True)
        )
        init_kaiming(self)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map normalised images (N, 3, H, W) to three maps (N, C_i, H_i, W_i), finest first."""
        maps = self.encoder(x)
        if self.encoder_decoder:
            maps = self._decode(maps)
        return [project(features) for project, features in zip(self.projections, maps, strict=True)]

    def levels(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield the stages, each with the stride of its maps in pixels of the image."""
        for level in range(1, self.encoder.stages + 1):
            yield 2 ** (level + 1), self.encoder.get_submodule(f"layer{level}")
            if self.encoder_decoder:
                yield 2 ** (level + 1), self.get_submodule(f"decoder_layer{level}")

    def _decode(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        x = self.decoder_layer4(encoded[3])
        decoded = []
        for level, layer in ((2, self.decoder_layer3), (1, self.decoder_layer2), (0, self.decoder_layer1)):
            x = functional.interpolate(x, size=encoded[level].shape[-2:], mode="bilinear", align_corners=False)
            x = layer(x)
            decoded.append(x)
        return decoded[::-1]


def zero_init_last_norm(encoder: Encoder) -> None:
    """Start every block of the encoder as its identity path, as the official DeSTSeg code does through timm."""
    for name, layer in encoder.named_modules():
        if name.endswith("bn2") and isinstance(layer, nn.BatchNorm2d):
            nn.init.zeros_(layer.weight)
