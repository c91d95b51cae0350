# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomalies are blended where the mask is, with the opacity asked for, from the generator given."""

import pytest
import torch

from destseg_anomalib.synthesis import AnomalyGenerator, TextureBank


@pytest.fixture
def white() -> TextureBank:
    return TextureBank(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_masked_pixels_change_and_by_the_opacity(white) -> None:
    images = torch.zeros(16, 3, 64, 64)
    clean, corrupted, mask = AnomalyGenerator(white, opacity=(0.25, 0.5))(images, draw(0))
    assert torch.equal(clean, images)
    assert (corrupted[mask.expand_as(corrupted) == 0] == 0).all()
    opacities = torch.stack([c.max() for c, m in zip(corrupted, mask, strict=True) if m.any()])
    assert ((opacities > 0.25) & (opacities <= 0.5)).all()
    assert opacities.unique().numel() > 5
    within = [c[m.expand_as(c) == 1].unique().numel() for c, m in zip(corrupted, mask, strict=True) if m.any()]
    assert set(within) == {1}


def test_full_opacity_replaces_the_image(white) -> None:
    clean, corrupted, mask = AnomalyGenerator(white, opacity=(1.0, 1.0))(torch.zeros(8, 3, 64, 64), draw(1))
    assert torch.equal(corrupted, mask.expand_as(clean))


def test_the_same_state_gives_the_same_anomalies_and_another_one_others(white) -> None:
    images = torch.rand(4, 3, 64, 64)
    generator = AnomalyGenerator(white, rotation="full")
    first, again, other = (generator(images, draw(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.mask, other.mask)
    assert not torch.equal(first.clean, other.clean)


def test_the_mask_is_not_rotated_away_from_its_anomaly(white) -> None:
    clean, corrupted, mask = AnomalyGenerator(white, rotation="full")(torch.zeros(8, 3, 64, 64), draw(5))
    assert torch.equal((corrupted != clean).any(dim=1, keepdim=True).float(), mask)


@pytest.mark.parametrize("opacity", [(0.5, 0.2), (-0.1, 1.0), (0.2, 1.1)])
def test_an_opacity_that_is_no_range_is_refused(white, opacity) -> None:
    with pytest.raises(ValueError, match="must be two numbers in order"):
        AnomalyGenerator(white, opacity=opacity)


def test_mixed_precision_changes_neither_rotation_nor_anomalies(white) -> None:
    images = torch.rand(4, 3, 64, 64)
    generator = AnomalyGenerator(white, rotation="full")
    plain = generator(images, draw(4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = generator(images, draw(4))
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
