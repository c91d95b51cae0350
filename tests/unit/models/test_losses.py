# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What the losses add up over, and that they are calm where the official ones are not."""

import pytest
import torch

from destseg_anomalib.models.losses import cosine_loss, focal_loss, l1_loss, loss_mask
from destseg_anomalib.models.similarity import cosine_distance, l2_normalize


def test_the_cosine_loss_is_a_sum_over_images_and_the_segmentation_losses_are_means() -> None:
    teacher, student = [torch.rand(2, 4, 8, 8)], [torch.rand(2, 4, 8, 8)]
    once, twice = (
        cosine_loss(teacher, student),
        cosine_loss([teacher[0].repeat(2, 1, 1, 1)], [student[0].repeat(2, 1, 1, 1)]),
    )
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-6)
    logits, mask = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    for loss in (focal_loss, l1_loss):
        doubled = loss(logits.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1, 1))
        assert doubled.item() == pytest.approx(loss(logits, mask).item(), rel=1e-6)


def test_an_all_zero_feature_has_a_finite_gradient() -> None:
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    cosine_distance(l2_normalize(features), l2_normalize(torch.rand(1, 4, 2, 2))).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_losses_are_float32_and_finite_for_extreme_logits_of_low_precision() -> None:
    logits = torch.tensor([-200.0, 200.0, 0.0, 90.0]).reshape(1, 1, 2, 2).bfloat16()
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 2, 2)
    for loss in (focal_loss(logits, mask), l1_loss(logits, mask)):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_the_loss_mask_reads_the_centre_of_each_block_of_four() -> None:
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 1:3, 1:3] = 1  # the whole 2x2 centre of the first block
    mask[..., 0, 4:] = 1  # only the border of the second
    assert loss_mask(mask, (1, 2)).flatten().tolist() == [1.0, 0.0]
    mask[..., 2, 1:3] = 0  # half of the centre is still enough
    assert loss_mask(mask, (1, 2)).flatten().tolist() == [1.0, 0.0]
    mask[..., 1, 1] = 0  # a quarter is not
    assert loss_mask(mask, (1, 2)).flatten().tolist() == [0.0, 0.0]
