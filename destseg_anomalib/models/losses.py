# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The two objectives (DeSTSeg, Sec. 3.2 and 3.3, Eq. 3 to 7), in float32 whatever the precision of the networks."""

from collections.abc import Sequence

import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from .similarity import cosine_distance, l2_normalize


def cosine_loss(teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Cosine distance of the levels: the mean over pixels, the *sum* over levels and images (Eq. 4).

    Args:
        teacher: Feature maps (N, C_i, H_i, W_i) of the clean images.
        student: Feature maps of the same shapes for the corrupted images.

    Returns:
        Scalar in [0, 2 · levels · N].
    """
    distances = (
        cosine_distance(l2_normalize(t), l2_normalize(s)).mean(dim=(1, 2, 3))
        for t, s in zip(teacher, student, strict=True)
    )
    return torch.stack(list(distances)).sum()


def loss_mask(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Reduce the mask of the synthetic anomaly to the size of the segmentation map.

    Bilinear without antialiasing and ``>= 0.5``, as the official code does: at a quarter of the size this reads the
    2x2 centre of each 4x4 block.

    Args:
        mask: Binary mask (N, 1, H, W), float32.
        size: Height and width of the result in pixels.

    Returns:
        Binary float32 mask (N, 1, *size).
    """
    return (functional.interpolate(mask, size=tuple(size), mode="bilinear", align_corners=False) >= 0.5).float()


def focal_loss(logits: torch.Tensor, mask: torch.Tensor, gamma: float = 4.0) -> torch.Tensor:
    r"""Focal loss :math:`-(1-q)^\gamma \log q` with :math:`q` the probability of the true class (Eq. 5).

    Args:
        logits: Segmentation logits (N, 1, H, W), any floating type.
        mask: Binary float32 mask of the same shape.
        gamma: Focusing exponent, at least 0.

    Returns:
        Scalar mean over images and pixels.
    """
    return sigmoid_focal_loss(logits.float(), mask, alpha=-1, gamma=gamma, reduction="mean")


def l1_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the predicted probability and the mask (Eq. 6), arguments as in `focal_loss`."""
    return functional.l1_loss(logits.float().sigmoid(), mask)
