# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The student's distance from the teacher, pixel by pixel: the map by itself, or a second witness beside a network."""

import torch
from torch import nn

from .similarity import cosine_distance, upsample

STEP = 0.1  # of the running middle, as of a batch norm's statistics
LEAST_DISTANCE = 1e-9  # a product of three: below it is rounding, and its logarithm noise


class DistanceWitness(nn.Module):
    """Adds to a network's logits what the distances say: weight * (log distance - middle).

    The network has learned from synthetic anomalies alone; where it errs about a real one, the student, which has only
    seen good parts, may not. The middle keeps values around one half: it lies between the mean log distance of
    synthetic anomalies and that of what surrounds them, and follows the batches of phase 2. It moves all pixels of all
    images alike, so that no figure depends on it.

    Args:
        weight: How much the distances say, above 0.

    Raises:
        ValueError: If the weight is not above 0.
    """

    middle: torch.Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        if weight <= 0:
            msg = f"distance_weight={weight} must be above 0, or 0 for the network alone."
            raise ValueError(msg)
        self.weight = weight
        self.register_buffer("middle", torch.zeros(()))

    def forward(self, logits: torch.Tensor, teacher: list[torch.Tensor], student: list[torch.Tensor]) -> torch.Tensor:
        """Add the distances to logits.

        Args:
            logits: Float32 logits (N, 1, H, W) of the network.
            teacher: L2-normalised teacher maps, finest first, (N, C, H, W).
            student: L2-normalised student maps of the same shapes.

        Returns:
            Float32 logits (N, 1, H, W).
        """
        return logits + self.weight * (_log_distance(teacher, student) - self.middle)

    @torch.no_grad()
    def learn(self, teacher: list[torch.Tensor], student: list[torch.Tensor], mask: torch.Tensor) -> None:
        """Let the middle follow a batch.

        Args:
            teacher: L2-normalised teacher maps of images with synthetic anomalies, finest first, (N, C, H, W).
            student: L2-normalised student maps of the same shapes.
            mask: Binary float32 mask (N, 1, H, W) of the anomalies; a batch without any says nothing.
        """
        distance = _log_distance(teacher, student)
        means = [(distance * part).sum() / part.sum().clamp(min=1) for part in (mask, 1 - mask)]
        self.middle.lerp_(torch.stack(means).mean().to(self.middle), STEP * mask.any().to(self.middle))


def distance_map(teacher: list[torch.Tensor], student: list[torch.Tensor]) -> torch.Tensor:
    """Multiply the upsampled cosine distances of the levels: the map without a segmentation network (Table 4).

    Args:
        teacher: L2-normalised teacher maps, finest first.
        student: L2-normalised student maps of the same shapes.

    Returns:
        Float32 map (N, 1, H / 4, W / 4) in [0, 2 ** levels].
    """
    distances = [cosine_distance(t, s) for t, s in zip(teacher, student, strict=True)]
    return torch.stack([upsample(d, distances[0].shape[-2:]) for d in distances]).prod(dim=0)


def _log_distance(teacher: list[torch.Tensor], student: list[torch.Tensor]) -> torch.Tensor:
    return distance_map(teacher, student).clamp(min=LEAST_DISTANCE).log()
