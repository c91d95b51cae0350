# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The picture of what a model is taught shows what the generator makes, above its masks."""

import torch
from torchvision.io import read_image

from destseg_anomalib.synthesis import AnomalyGenerator, TextureBank
from destseg_anomalib.synthesis.preview import write_preview


def test_the_picture_is_the_generators_images_above_their_masks(tmp_path) -> None:
    images = torch.full((3, 3, 32, 32), 90 / 255)
    generator = AnomalyGenerator(TextureBank(torch.full((2, 3, 32, 32), 250, dtype=torch.uint8)), opacity=(1.0, 1.0))
    write_preview(images, generator, 5, tmp_path / "new" / "synthetic.png")
    picture = read_image(str(tmp_path / "new" / "synthetic.png"))
    assert picture.shape == (3, 2 * 34 + 2, 3 * 34 + 2)  # 2 pixels of grey between them
    made = generator(images, torch.Generator().manual_seed(5))
    assert made.mask.any()
    for number in range(3):
        left = 2 + 34 * number
        corrupted, mask = (picture[:, top : top + 32, left : left + 32] for top in (2, 36))
        assert torch.equal(mask == 255, made.mask[number].bool().expand(3, -1, -1))
        assert torch.equal(corrupted, torch.where(mask == 255, 250, 90).to(torch.uint8))
