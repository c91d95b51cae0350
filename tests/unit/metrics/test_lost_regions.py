# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import torch
from torchvision import tv_tensors

from destseg_anomalib.metrics.lost_regions import count_lost_regions
from destseg_anomalib.transforms import RoundedBilinearResize


def test_thin_cracks_lost_by_the_reduction_are_counted() -> None:
    mask = np.zeros((256, 256), dtype=bool)
    mask[10, 20:200] = True  # one pixel wide: gone at a quarter of the size
    mask[100:120, 30:60] = True
    mask[200, 200] = True
    reduced = RoundedBilinearResize((64, 64))(tv_tensors.Mask(torch.from_numpy(mask))).numpy()
    assert count_lost_regions(mask, reduced) == (2, 3)


def test_regions_that_merge_are_not_lost() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :3] = mask[:, 4:] = True
    assert count_lost_regions(mask, np.ones((2, 2), dtype=bool)) == (0, 2)


def test_a_mask_of_the_same_size_loses_nothing() -> None:
    mask = np.eye(5, dtype=bool)
    assert count_lost_regions(mask, mask) == (0, 1)
