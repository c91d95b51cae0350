# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import cv2
import numpy as np
import pytest

from destseg_anomalib.data.defects import DEFECTS, SMALL_DEFECTS, add_defects

KINDS = sorted(DEFECTS)
SEEDS = range(12)


def surface() -> np.ndarray:
    texture = np.random.default_rng(5).normal(120, 12, (256, 256)).astype(np.float32)
    return cv2.GaussianBlur(texture, (0, 0), 1.5)


def regions(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_defect_is_one_connected_region(kind: str, seed: int) -> None:
    _, mask = DEFECTS[kind](surface(), np.random.default_rng(seed))
    assert regions(mask) == 1
    assert 20 < mask.sum() < 0.2 * mask.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_surface_changes_inside_the_mask_and_hardly_outside(kind: str, seed: int) -> None:
    clean = surface()
    marked, mask = DEFECTS[kind](clean, np.random.default_rng(seed))
    change = np.abs(marked - clean)
    beyond = ~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert change[beyond].max() < 1, "the mask must cover what changed, up to a soft edge of two pixels"
    assert change[mask].mean() > 8, "a defect must be visible"


@pytest.mark.parametrize("kind", KINDS)
def test_images_have_one_to_three_defects_of_different_sizes(kind: str) -> None:
    masks = [add_defects(surface(), kind, np.random.default_rng(seed))[1] for seed in range(30)]
    counts = [regions(mask) for mask in masks]
    assert set(counts) == {1, 2, 3}
    areas = [
        area
        for mask in masks
        for area in cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    ]
    assert max(areas) > 3 * min(areas)


def test_defects_stay_apart_when_masks_are_halved() -> None:
    for seed in range(30):
        _, mask = add_defects(surface(), "stain", np.random.default_rng(seed))
        half = cv2.resize(mask.astype(np.uint8), (128, 128), interpolation=cv2.INTER_AREA)
        assert regions(half > 0) == regions(mask)


@pytest.mark.parametrize("kind", KINDS)
def test_defects_are_not_blobs_of_one_grey_value(kind: str) -> None:
    for seed in SEEDS:
        marked, mask = DEFECTS[kind](surface(), np.random.default_rng(seed))
        assert np.ptp(np.percentile(marked[mask], [10, 90])) > 5
        assert 0 < np.median(marked[mask]) < 255


def test_defects_leave_the_surface_they_were_given_untouched() -> None:
    clean = surface()
    for kind in KINDS:
        add_defects(clean, kind, np.random.default_rng(0))
    assert np.array_equal(clean, surface())


@pytest.mark.parametrize("kind", sorted(SMALL_DEFECTS))
def test_small_defects_are_one_visible_region_of_a_few_pixels_anywhere(kind: str) -> None:
    places, clean = [], surface()
    for seed in range(40):
        marked, mask = SMALL_DEFECTS[kind](clean, np.random.default_rng(seed))
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        assert regions(mask) == 1
        assert 3 <= max(width, height) <= 14
        assert np.abs(marked - clean)[mask].mean() > 8
        places.append((left, top))
    assert np.ptp(places, axis=0).min() > 150
