# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""From raw maps and a threshold to verdicts, in PyTorch and in an exported graph alike."""

import numpy as np
import torch
from anomalib.data import InferenceBatch

from destseg_anomalib.deployment.part_score import has_region_in_graph, part_scores

# The numbers next to 0.5 in float32, so that ">" and ">=" say the same of whatever is compared with 0.5.
BELOW, ABOVE = (float(np.nextafter(np.float32(0.5), np.float32(end))) for end in (0, 1))


def judge(maps: torch.Tensor, threshold: torch.Tensor, span: torch.Tensor, min_area: int) -> InferenceBatch:
    """Judge parts and pixels by one threshold.

    Args:
        maps: Float32 ``(N, 1, H, W)`` or ``(N, H, W)``, raw.
        threshold: Float32 scalar.
        span: Float32 scalar, the difference of raw values that becomes 1; 1 itself if it is not above 0.
        min_area: Pixels that a region at or above the threshold has at least in a bad part.

    Returns:
        ``anomaly_map`` of the same shape and ``pred_score`` ``(N,)``, float32 in [0, 1], of which those at or above the
        threshold are above 0.5 and all others below, and boolean ``pred_mask`` and ``pred_label`` of these shapes.
    """
    masks = maps >= threshold
    if min_area > 1 and torch.compiler.is_compiling():  # a graph holds tensor operations alone
        bad = has_region_in_graph(masks.flatten(0, -3), min_area)
        scores = maps.flatten(1).topk(min_area).values[:, -1]
    else:
        scores = part_scores(maps, min_area)
        bad = scores >= threshold

    def to_unit(values: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
        unit = ((values - threshold) / torch.where(span > 0, span, 1.0) + 0.5).clamp(0, 1)
        # Near the threshold a difference may be too small to change 0.5 in float32.
        return torch.where(reached, unit.clamp(min=ABOVE), unit.clamp(max=BELOW))

    return InferenceBatch(
        pred_score=to_unit(scores, bad), pred_label=bad, anomaly_map=to_unit(maps, masks), pred_mask=masks
    )
