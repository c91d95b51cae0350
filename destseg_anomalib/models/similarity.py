# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How teacher and student maps are compared (DeSTSeg, Sec. 3.2 and 3.3, Eq. 2 and 3)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

SegmentationInput = Literal["product", "concat", "cosine"]


def l2_normalize(features: torch.Tensor) -> torch.Tensor:
    """Scale the channel vector of every pixel to length 1, in float32.

    The constant stands inside the root: an all-zero vector then has a finite gradient, where dividing by
    ``norm + 1e-12`` has none.

    Args:
        features: Feature map (N, C, H, W), any floating type.

    Returns:
        Float32 map (N, C, H, W).
    """
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + 1e-12).rsqrt()


def cosine_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    r"""Cosine distance of two feature maps, pixel by pixel: :math:`D = 1 - \sum_c \hat t_c \hat s_c` (Eq. 3).

    Args:
        teacher: L2-normalised teacher features (N, C, H, W).
        student: L2-normalised student features of the same shape.

    Returns:
        Distances (N, 1, H, W) in [0, 2].
    """
    return 1 - (teacher * student).sum(dim=1, keepdim=True)


def similarity_maps(teacher: list[torch.Tensor], student: list[torch.Tensor], kind: SegmentationInput) -> torch.Tensor:
    """Compare the levels of teacher and student, for the segmentation network to read (Sec. 3.3, Table 6).

    Args:
        teacher: L2-normalised teacher maps, finest first.
        student: L2-normalised student maps, finest first.
        kind: The channel-wise `product` of both, both one after the other (`concat`), or their `cosine` distances.

    Returns:
        Float32 map (N, C, H / 4, W / 4), the levels brought to the size of the finest and joined.
    """
    maps: list[torch.Tensor] = []
    for t, s in zip(teacher, student, strict=True):
        if kind == "product":
            maps.append(-t * s)  # the official code's sign; the paper's Eq. 2 has plus ("Paper, code, here", 1)
        elif kind == "concat":
            maps.append(torch.cat([t, s], dim=1))
        else:
            maps.append(cosine_distance(t, s))
    return torch.cat([upsample(m, maps[0].shape[-2:]) for m in maps], dim=1)


def upsample(features: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Bring maps (N, C, H, W) to a larger height and width, bilinearly."""
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)


def segmentation_channels(segmentation_input: str, channels: Sequence[int]) -> int:
    """Count the channels that the segmentation network reads.

    Args:
        segmentation_input: `product`, `concat` or `cosine`.
        channels: Channels of the teacher's maps.

    Returns:
        How many channels `similarity_maps` concatenates.

    Raises:
        ValueError: If the name is none of the three.

    Example:
        >>> segmentation_channels("concat", [64, 128, 256])
        896
    """
    counts = {"product": sum(channels), "concat": 2 * sum(channels), "cosine": len(channels)}
    if segmentation_input not in counts:
        msg = f"segmentation_input={segmentation_input!r} is unknown: choose one of {', '.join(counts)}."
        raise ValueError(msg)
    return counts[segmentation_input]
