# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The distances as a second witness beside the segmentation network."""

import pytest
import torch

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.models.destseg import DeSTSegModel
from destseg_anomalib.models.similarity import l2_normalize
from destseg_anomalib.models.witness import DistanceWitness, distance_map

TINY = {"backbone": "test_resnet", "pre_trained": False}


def features(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [l2_normalize(torch.randn(2, 8, size, size, generator=generator)) for size in (16, 8, 4)]


def test_the_map_is_the_logit_and_the_weighted_log_distance() -> None:
    plain, with_witness = DeSTSegModel(**TINY).eval(), DeSTSegModel(**TINY, distance_weight=0.5).eval()
    missing = with_witness.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["witness.middle"]
    with_witness.witness.middle.fill_(-3)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        teacher, student = plain.features(images)
        logits = plain.segment(teacher, student)
        expected = (logits + 0.5 * (distance_map(teacher, student).log() + 3)).sigmoid()
        expected = torch.nn.functional.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)
        assert torch.allclose(with_witness(images).anomaly_map, expected, atol=1e-6)
        assert not torch.allclose(with_witness(images).anomaly_map, plain(images).anomaly_map, atol=1e-2)


def test_equal_features_have_a_finite_logarithm() -> None:
    teacher = features(0)
    logits = DistanceWitness(1.0)(torch.zeros(()), teacher, teacher)
    assert logits.isfinite().all()
    assert logits.max() < -10


def test_the_middle_is_learned_between_anomalies_and_what_surrounds_them() -> None:
    teacher, student = features(0), features(1)
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, :5, :5] = 1
    distance = distance_map(teacher, student).log()
    inside, outside = distance[mask > 0].mean(), distance[mask == 0].mean()
    witness = DistanceWitness(0.5)
    for _ in range(100):
        witness.learn(teacher, student, mask)
    assert witness.middle.item() == pytest.approx((inside + outside).item() / 2, abs=1e-3)
    before = witness.middle.clone()
    witness.learn(teacher, student, torch.zeros_like(mask))  # no anomaly: nothing between which to be
    assert torch.equal(witness.middle, before)


def test_the_losses_are_those_without_a_witness() -> None:
    images, mask = torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    losses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        losses.append(DeSTSegModel(**TINY, distance_weight=weight).segmentation_losses(images, mask, gamma=4))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("model", [DeSTSeg, PFADSeg])
def test_both_models_take_the_argument(model) -> None:
    assert model(**TINY, distance_weight=0.25).model.witness.weight == 0.25
    assert model(**TINY).model.witness is None
    with pytest.raises(ValueError, match=r"distance_weight=-1 must be above 0"):
        model(**TINY, distance_weight=-1)


def test_a_witness_needs_somebody_to_stand_beside() -> None:
    with pytest.raises(ValueError, match="without a segmentation network stands beside nothing"):
        DeSTSeg(**TINY, segmentation=False, distance_weight=0.5)
