# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How teacher and student maps are compared (DeSTSeg, Sec. 3.2 and 3.3, Eq. 2 and 3)."""

import torch


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
