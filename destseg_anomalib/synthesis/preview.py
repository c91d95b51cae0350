# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A picture of what a model is about to be taught."""

from pathlib import Path

import torch
from torchvision.utils import save_image

from .generator import AnomalyGenerator

SHOWN = 8


def write_preview(images: torch.Tensor, generator: AnomalyGenerator, seed: int, path: Path) -> None:
    """Corrupt some images as the training will, and write them above their masks.

    Args:
        images: Clean images (N, 3, H, W), float, in [0, 1], up to `SHOWN`.
        generator: Corrupts them.
        seed: Of its random numbers.
        path: Where to write the picture; its folder is made if missing.
    """
    synthetic = generator(images, torch.Generator().manual_seed(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = torch.cat([synthetic.corrupted, synthetic.mask.expand_as(synthetic.corrupted)])
    save_image(rows, path, nrow=len(images), pad_value=0.5)
