# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The masks are Perlin noise with the statistics of the official synthesis."""

import math

import cv2
import numpy as np
import pytest
import torch

from destseg_anomalib.synthesis.perlin import LATTICE, SCALES, draw_noise, lattice_angles, perlin_masks, perlin_noise


def reference_noise(scales: list[int], angles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Perlin noise pixel by pixel: four corners of the lattice cell, their gradients, a quintic fade."""
    noise = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = row * 2 ** scales[0] / size[0], column * 2 ** scales[1] / size[1]
            total = 0.0
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    dot = math.cos(angles[j, i]) * (y - j) + math.sin(angles[j, i]) * (x - i)
                    weights = [1 - (6 * d**5 - 15 * d**4 + 10 * d**3) for d in (abs(y - j), abs(x - i))]
                    total += dot * weights[0] * weights[1]
            noise[row, column] = math.sqrt(2) * total
    return noise


@pytest.mark.parametrize(("exponents", "size"), [([0, 0], (16, 16)), ([2, 4], (32, 48)), ([5, 1], (64, 20))])
def test_noise_equals_the_definition_pixel_by_pixel(exponents, size) -> None:
    angles = 2 * math.pi * torch.rand(1, LATTICE, LATTICE, generator=torch.Generator().manual_seed(1))
    noise = perlin_noise(torch.tensor([exponents]), angles, size)[0, 0].numpy()
    assert np.abs(noise - reference_noise(exponents, angles[0].numpy(), size)).max() < 2e-6


def test_masks_have_the_statistics_of_the_official_ones() -> None:
    draw = torch.Generator().manual_seed(0)
    masks = torch.cat([perlin_masks(250, (256, 256), draw) for _ in range(4)])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    area = masks.mean(dim=(1, 2, 3))
    # 2,000 samples of the official code: mean 0.0496, empty 4.4 %, quantiles 0.017 / 0.047 / 0.103, median 9 regions.
    assert area.mean().item() == pytest.approx(0.0496, abs=0.003)
    assert (area == 0).float().mean().item() == pytest.approx(0.044, abs=0.015)
    quantiles = torch.quantile(area[area > 0], torch.tensor([0.05, 0.5, 0.95])).tolist()
    assert quantiles == pytest.approx([0.017, 0.047, 0.103], rel=0.15)
    regions = [cv2.connectedComponents(m[0].numpy().astype(np.uint8))[0] - 1 for m in masks[area > 0]]
    assert np.median(regions) == pytest.approx(9, abs=1)


def test_the_generator_alone_decides_the_masks() -> None:
    torch.manual_seed(0)
    first = perlin_masks(3, (64, 48), torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    assert torch.equal(first, perlin_masks(3, (64, 48), torch.Generator().manual_seed(7)))
    assert not torch.equal(first, perlin_masks(3, (64, 48), torch.Generator().manual_seed(8)))
    assert first.shape == (3, 1, 64, 48)


def test_every_scale_is_drawn() -> None:
    scales, lattices, degrees = draw_noise(500, torch.Generator().manual_seed(0))
    angles = lattice_angles(lattices)
    assert angles.shape == (500, LATTICE, LATTICE)
    assert len(angles.unique(dim=0)) == 500
    assert set(scales.unique().tolist()) == set(range(SCALES))
    assert 0 <= angles.min() < 0.1
    assert 2 * math.pi - 0.1 < angles.max() < 2 * math.pi
    assert -90 <= degrees.min() < -85
    assert 85 < degrees.max() < 90
