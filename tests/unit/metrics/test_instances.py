# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from brute_force import regions_of

from destseg_anomalib.metrics.instances import find_regions, label_regions, to_arrays


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    assert len(label_regions(mask)[1]) == 1


def test_a_long_serpentine_is_one_region() -> None:
    mask = np.zeros((65, 64), dtype=bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    assert len(label_regions(mask)[1]) == 1


def test_a_mask_without_background_is_one_region() -> None:
    _, regions = find_regions(np.ones((4, 5), np.float32), np.ones((4, 5), dtype=bool))
    assert regions.areas.tolist() == [20]
    assert regions.boxes.tolist() == [[0, 0, 5, 4]]


def test_every_defective_pixel_is_found_once_in_its_region() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, (20, 30)).astype(np.float32)
    mask = rng.random((20, 30)) < 0.3
    positives, regions = find_regions(scores, mask)
    of_each = np.split(positives, np.cumsum(regions.areas)[:-1])
    expected = [sorted(scores[pixel] for pixel in region) for region in regions_of(mask)]
    assert sorted(map(list, of_each)) == sorted(expected)


@pytest.mark.parametrize(
    ("pixels", "overlap", "score"),
    [(1, 0.5, 9), (2, 0.5, 8), (3, 0.5, 8), (4, 0.5, 7), (10, 0.3, 6), (10, 0.7, 2), (10, 0.0, 9), (5, 0.99, 5)],
)
def test_a_region_scores_where_more_than_the_overlap_is_found(pixels: int, overlap: float, score: float) -> None:
    scores = np.arange(9, 9 - pixels, -1, dtype=np.float32)[None]
    _, regions = find_regions(scores, np.ones_like(scores, dtype=bool), overlap)
    assert regions.scores.tolist() == [score]


def test_maps_may_have_a_channel_and_any_real_dtype() -> None:
    maps, masks = to_arrays(torch.ones(2, 1, 3, 4, dtype=torch.bfloat16), torch.ones(2, 3, 4, dtype=torch.uint8))
    assert maps.shape == masks.shape == (2, 3, 4)
    assert maps.dtype == np.float32
    assert masks.dtype == np.bool_


@pytest.mark.parametrize("preds", [(4, 4), (2, 3, 4, 4), (4,)])
def test_maps_of_another_shape_are_refused(preds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, H, W\) or \(B, 1, H, W\)"):
        to_arrays(torch.zeros(preds), torch.zeros(preds))


@pytest.mark.parametrize("target", [(3, 4, 4), (2, 4, 5), (2, 2, 8), (2, 16), (2, 2, 4, 4)])
def test_masks_that_do_not_fit_their_maps_are_refused(target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit anomaly maps"):
        to_arrays(torch.zeros(2, 4, 4), torch.zeros(target))


@pytest.mark.parametrize("value", [255, -1, 0.5])
def test_masks_that_are_not_binary_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="other than 0 and 1"):
        to_arrays(torch.zeros(1, 2, 2), torch.tensor([[[0, 1], [0, value]]]))


def test_nan_is_refused_with_the_name_of_the_image() -> None:
    preds = torch.zeros(3, 2, 2)
    preds[1, 0, 1] = torch.nan
    with pytest.raises(ValueError, match="image number 1 of the batch contains NaN"):
        to_arrays(preds, torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"image b\.png contains NaN"):
        to_arrays(preds, torch.zeros(3, 2, 2), names=["a.png", "b.png", "c.png"])
