# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A picture that says where to look, read to the size of the images, or refused in a sentence."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from destseg_anomalib.data.regions import read_regions
from destseg_anomalib.models.regions import Regions
from destseg_anomalib.transforms import RoundedBilinearResize


def write(path: Path, white: np.ndarray) -> Path:
    cv2.imwrite(str(path), np.where(white, 255, 0).astype(np.uint8))
    return path


@given(white=hnp.arrays(bool, (24, 40), elements=st.booleans()).filter(np.any), seed=st.integers(0, 9))
def test_no_pixel_inside_depends_on_anything_outside(white: np.ndarray, seed: int, tmp_path_factory) -> None:
    white = np.kron(white[::4, ::5], np.ones((8, 10), bool)).astype(bool)  # blocks, of which some survive
    if not white.any():
        return
    path = write(tmp_path_factory.mktemp("regions") / "regions.png", white)
    resize = RoundedBilinearResize((16, 20))
    inside = read_regions(path, (16, 20))
    image = torch.rand(3, *white.shape, generator=torch.Generator().manual_seed(seed))
    other = torch.where(torch.from_numpy(white), image, 1 - image)
    assert torch.equal(resize(image)[:, inside], resize(other)[:, inside])


def test_regions_may_have_any_size_of_the_images_shape_and_grey_borders(tmp_path: Path) -> None:
    white = np.zeros((100, 200), bool)
    white[20:80, 50:] = True
    expected = torch.zeros(50, 100, dtype=torch.bool)
    expected[11:39, 26:] = True  # a pixel that shows some of what is outside is outside
    picture = write(tmp_path / "image.png", np.ones((400, 800)))
    for name, size in (("regions.png", (200, 100)), ("large.png", (800, 400)), ("regions.jpg", (400, 200))):
        drawn = cv2.resize(white.astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / name), drawn)
        inside = read_regions(tmp_path / name, (50, 100), [str(picture), "none.png"])
        assert (inside != expected).sum() <= 0 if name == "regions.png" else (inside != expected).sum() < 260


@pytest.mark.parametrize(
    ("height", "width", "white", "sentence"),
    [
        (40, 80, 0, "regions='.*' is black all over, so there is nothing to look at: paint white where to look."),
        (40, 80, 1, "regions='.*' leaves no whole pixel at 8 x 16, so there is nothing to look at: paint white .*"),
        (
            40,
            60,
            2,
            "regions='.*' is 60 pixels wide and 40 high, and the image .* 160 and 80, which is another.*",
        ),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, height: int, width: int, white: int, sentence: str) -> None:
    image = write(tmp_path / "image.png", np.ones((80, 160)))
    picture = np.zeros((height, width))
    picture[:white, :white] = 1
    path = write(tmp_path / "regions.png", picture)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        read_regions(path, (8, 16), [str(image)])


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_file_that_is_no_picture_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "regions.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^regions='.*' cannot be read \(.*\): give a picture that is white"):
        read_regions(path, (8, 8))


def test_values_outside_become_zero_whatever_they_are_and_at_any_size() -> None:
    regions = Regions((4, 6))
    assert torch.equal(regions(torch.ones(2, 4, 6)), torch.ones(2, 4, 6))
    regions.inside[:2] = False
    values = torch.full((2, 1, 8, 12), torch.nan)
    values[..., 4:, :] = 5
    assert torch.equal(regions(values), torch.where(torch.arange(8)[:, None] < 4, 0.0, values))
    assert regions(torch.ones(3, 4, 6, dtype=torch.bool)).sum() == 3 * 12
