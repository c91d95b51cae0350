# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""From clean images to images with synthetic anomalies (DeSTSeg, Sec. 3.1, Eq. 1)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torchvision.transforms.v2.functional import center_crop

from .perlin import perlin_masks
from .rotation import Rotation, draw_angles, rotate
from .textures import TextureBank


class SyntheticBatch(NamedTuple):
    """A batch to train on.

    Attributes:
        clean: Rotated images (N, 3, H, W), float32, in [0, 1].
        corrupted: The same images with anomalies blended in.
        mask: Where the anomalies are (N, 1, H, W), float32, 0 or 1; about one mask in twenty is empty.
    """

    clean: torch.Tensor
    corrupted: torch.Tensor
    mask: torch.Tensor


class AnomalyGenerator:
    """Makes synthetic anomalies for a whole batch at once, on the batch's device.

    All random numbers are drawn on the CPU, from the generator given: the same state gives the same anomalies on
    every device, and a GPU is never waited for.

    Args:
        bank: Anomaly sources, of the size of the images.
        opacity: Range that the opacity of an anomaly is drawn from, above the first and up to the second.
        rotation: How training images are rotated.
        size: Side in pixels of the middle of the images that is kept after the rotation; None for all of it.
        within: Makes a mask (N, 1, H, W) zero where no anomaly may be; None for anomalies everywhere.

    Raises:
        ValueError: If `opacity` is not an ordered pair within [0, 1].
    """

    def __init__(
        self,
        bank: TextureBank,
        opacity: tuple[float, float] = (0.2, 1.0),
        rotation: Rotation = "none",
        size: int | None = None,
        within: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        low, high = opacity
        if not 0 <= low <= high <= 1:
            msg = f"opacity={opacity} must be two numbers in order within [0, 1], such as (0.2, 1.0)."
            raise ValueError(msg)
        self.bank = bank
        self.opacity = (low, high)
        self.rotation = rotation
        self.size = size
        self.within = within

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> SyntheticBatch:
        """Rotate and corrupt a batch.

        Args:
            images: Clean images (N, 3, H, W), float, in [0, 1].
            generator: CPU generator that all draws come from.

        Returns:
            Clean and corrupted images in the dtype of `images`, and the mask in float32, on the device of `images`.
        """
        # Autocast would round coordinates and noise to eight bits, and so would images of half precision.
        with torch.autocast(images.device.type, enabled=False):
            clean, corrupted, mask = self._corrupt(images.float(), generator)
        return SyntheticBatch(clean.to(images.dtype), corrupted.to(images.dtype), mask)

    def _corrupt(self, images: torch.Tensor, generator: torch.Generator) -> SyntheticBatch:
        count, device = len(images), images.device
        if self.rotation != "none":
            images = rotate(images, draw_angles(self.rotation, count, generator).to(device, non_blocking=True))
        if self.size is not None:
            images = center_crop(images, [self.size, self.size])
        mask = perlin_masks(count, (images.shape[-2], images.shape[-1]), generator, device)
        if self.within is not None:
            mask = self.within(mask)
        source = self.bank.sample(count, generator, device)
        low, high = self.opacity
        drawn = torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float32)
        opacity = (high - (high - low) * drawn).to(device, non_blocking=True)
        return SyntheticBatch(images, torch.lerp(images, source, mask * opacity), mask)
