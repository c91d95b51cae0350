# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Where to look in a picture, for parts that always lie in the same place: nothing is seen or said outside."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Regions(nn.Module):
    """Makes everything outside of some regions zero: images before the networks see them, masks, and anomaly maps.

    Args:
        size: Height and width in pixels of the images; at first every pixel is inside.
    """

    inside: torch.Tensor

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("inside", torch.ones(*size, dtype=torch.bool))

    def at(self, size: Sequence[int]) -> torch.Tensor:
        """Say what is inside at another size.

        Args:
            size: Height and width in pixels.

        Returns:
            Boolean (H, W).
        """
        if tuple(size) == tuple(self.inside.shape):
            return self.inside
        return functional.interpolate(self.inside[None, None].float(), tuple(size), mode="nearest-exact")[0, 0] > 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Make values outside zero, whatever they are.

        Args:
            values: Tensor (..., H, W) of any type.

        Returns:
            The same with zeros outside.
        """
        return torch.where(self.at(values.shape[-2:]), values, values.new_zeros(()))
