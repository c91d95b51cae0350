# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A part's score is the highest threshold at which a region of its map is large enough."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from destseg_anomalib.deployment.part_score import has_region, has_region_in_graph, part_scores
from destseg_anomalib.metrics.instances import label_regions

MAPS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.integers(-3, 3))


def by_trying(anomaly_map: np.ndarray, area: int) -> float:
    """Lower the threshold from the highest pixel until a region is large enough."""
    for threshold in np.unique(anomaly_map)[::-1]:
        if (label_regions(anomaly_map >= threshold)[1][:, 4] >= area).any():
            return float(threshold)
    raise AssertionError


@settings(max_examples=300, deadline=None)
@given(MAPS, st.data())
def test_score_is_the_highest_threshold_at_which_the_part_is_bad(anomaly_map: np.ndarray, data: st.DataObject) -> None:
    area = data.draw(st.integers(1, anomaly_map.size))
    [score] = part_scores(torch.from_numpy(anomaly_map)[None], area).tolist()
    assert score == by_trying(anomaly_map, area)


@settings(max_examples=300, deadline=None)
@given(MAPS, st.data())
def test_a_graph_of_tensor_operations_finds_the_same_regions(anomaly_map: np.ndarray, data: st.DataObject) -> None:
    area = data.draw(st.integers(2, max(2, anomaly_map.size)))
    masks = torch.from_numpy(np.stack([anomaly_map > 0, anomaly_map > 2]))
    if area <= anomaly_map.size:
        assert has_region_in_graph(masks, area).tolist() == [has_region(mask, area) for mask in masks.numpy()]


def test_a_long_winding_region_is_one_to_its_last_pixel() -> None:
    mask = np.zeros((9, 9), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    area = int(mask.sum())
    for wanted in (area, area + 1):
        expected = [wanted == area]
        assert has_region_in_graph(torch.from_numpy(mask)[None], wanted).tolist() == expected
        assert [has_region(mask, wanted)] == expected


def test_batches_keep_their_order_and_maps_of_one_channel_are_welcome() -> None:
    maps = torch.rand(3, 1, 8, 8)
    for area in (1, 4):
        expected = [part_scores(one, area).item() for one in maps]
        assert part_scores(maps, area).tolist() == part_scores(maps[:, 0], area).tolist() == expected


def test_an_area_beyond_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^min_area=65 is more than all 8 x 8 pixels of a map: no part could be bad"):
        part_scores(torch.zeros(1, 8, 8), 65)
