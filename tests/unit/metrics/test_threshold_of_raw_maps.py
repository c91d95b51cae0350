# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The page "Reading the result" says how a threshold of the curve becomes anomalib's."""

import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor


def test_a_threshold_on_raw_maps_becomes_a_sensitivity() -> None:
    post = PostProcessor()
    for name, value in {"pixel_min": 0.0, "pixel_max": 4.0, "_pixel_threshold": 2.0, "_image_threshold": 2.0}.items():
        getattr(post, name).fill_(value)
    post.image_min.fill_(0.0)
    post.image_max.fill_(4.0)
    maps = torch.linspace(1, 3, 101).reshape(1, 1, 1, 101)
    for threshold in (1.505, 2.005, 2.405):
        post.pixel_sensitivity = 0.5 - (threshold - post.pixel_threshold) / (post.pixel_max - post.pixel_min)
        marked = post(InferenceBatch(anomaly_map=maps, pred_score=maps.amax(dim=(1, 2, 3)))).pred_mask
        assert torch.equal(marked, maps > threshold)
