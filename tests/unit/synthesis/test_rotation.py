# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Rotation about the centre, counter-clockwise, with the papers' classes and grey corners."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from destseg_anomalib.synthesis.rotation import FILL, draw_angles, rotate, rotation_of_category


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_of_a_square_move_pixels_and_change_none(turns) -> None:
    image = torch.rand(1, 3, 16, 16)
    rotated = rotate(image, torch.tensor([90.0 * turns]))
    assert torch.allclose(rotated, torch.rot90(image, turns, dims=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("size", [(40, 40), (40, 64)])
def test_rotation_agrees_with_torchvision_inside_the_picture(size) -> None:
    smooth = functional.gaussian_blur(torch.rand(1, 1, *size), [9, 9])
    ours = rotate(smooth, torch.tensor([25.0]))
    theirs = functional.rotate(smooth, 25.0, interpolation=InterpolationMode.BILINEAR)
    inside = (slice(None), slice(None), slice(14, 26), slice(14, 26))
    assert torch.allclose(ours[inside], theirs[inside], atol=1e-5)


def test_every_image_turns_by_its_own_angle_and_corners_are_grey() -> None:
    images = torch.ones(2, 3, 32, 32)
    rotated = rotate(images, torch.tensor([0.0, 45.0]))
    assert torch.allclose(rotated[0], images[0], atol=1e-6)
    assert rotated[1, :, 0, 0].tolist() == pytest.approx([FILL] * 3)
    assert rotated[1, 0, 16, 16].item() == pytest.approx(1)


def test_the_classes_draw_the_angles_they_name() -> None:
    draw = torch.Generator().manual_seed(0)
    assert (draw_angles("none", 50, draw) == 0).all()
    slight = draw_angles("slight", 500, draw)
    assert 4.5 < slight.abs().max() <= 5
    full = draw_angles("full", 500, draw)
    nearest = (full / 90).round()
    assert set(nearest.unique().tolist()) == {0, 1, 2, 3}
    assert (full - 90 * nearest).abs().max() <= 5


def test_categories_have_the_class_of_the_official_code_and_unknown_ones_none() -> None:
    classes = {name: rotation_of_category(name) for name in ("capsule", "zipper", "bottle", "screw", "my_part")}
    assert classes == {"capsule": "none", "zipper": "slight", "bottle": "full", "screw": "full", "my_part": "none"}
