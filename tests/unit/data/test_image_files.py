# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A picture passes if every program shows it as anomalib reads it; what is told by its header costs no decoding."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from destseg_anomalib.data.images import UnusableImageError, check_image

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def stored(path: Path, array: np.ndarray = PICTURE, mode: str | None = None, **options: Any) -> str:
    Image.fromarray(array).convert(mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return str(path)


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_picture_that_is_marked_as_turned_is_refused(tmp_path: Path, ending: str, orientation: int) -> None:
    path = stored(tmp_path / f"a.{ending}", **turned(orientation))
    with pytest.raises(UnusableImageError, match=rf"image \S*a\.{ending} .*EXIF orientation {orientation}.*: store it"):
        check_image(path)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_picture_that_is_marked_as_upright_passes(tmp_path: Path, orientation: int) -> None:
    assert check_image(stored(tmp_path / "a.jpg", **turned(orientation))) == (80, 60)


def test_a_tiff_is_turned_when_it_is_read_and_passes(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.tif", tiffinfo={0x0112: 6})
    assert check_image(path) == (60, 80)
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), np.rot90(PICTURE, -1))


@pytest.mark.parametrize("ending", ["tif", "png", "webp"])
def test_further_pictures_in_a_file_are_not_passed_over(tmp_path: Path, ending: str) -> None:
    path = stored(tmp_path / f"a.{ending}", save_all=True, append_images=[Image.fromarray(255 - PICTURE)])
    with pytest.raises(UnusableImageError, match=r"holds 2 pictures, .* the first alone: store each in a file"):
        check_image(path)


def test_a_preview_is_no_further_picture(tmp_path: Path) -> None:
    preview = Image.fromarray(PICTURE[::4, ::4])
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    assert check_image(stored(tmp_path / "a.tif", save_all=True, append_images=[preview])) == (80, 60)
    assert check_image(stored(tmp_path / "a.mpo", save_all=True, append_images=[preview])) == (80, 60)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_a_picture_of_any_kind_of_8_bits_passes(tmp_path: Path, mode: str) -> None:
    assert check_image(stored(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode=mode)) == (80, 60)


@pytest.mark.parametrize("ending", ["png", "tif", "ppm"])
def test_the_upper_half_of_16_bits_of_colour_is_what_is_read(tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"a.{ending}")
    cv2.imwrite(path, PICTURE[..., ::-1].astype(np.uint16) * 257)
    assert check_image(path) == (80, 60)
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), PICTURE)


@pytest.mark.parametrize("factor", [16, 64])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_12_or_14_bits_of_colour_in_16_would_be_too_dark_and_are_refused(
    tmp_path: Path, ending: str, factor: int
) -> None:
    path = str(tmp_path / f"a.{ending}")
    cv2.imwrite(path, PICTURE.astype(np.uint16) * factor)
    with pytest.raises(UnusableImageError, match=r"colours of 16 bits, .* uppermost empty: convert it to 8 bits\.$"):
        check_image(path)


def test_a_header_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        pytest.fail("The picture was decoded.")

    paths = [stored(tmp_path / name) for name in ("a.png", "a.tif", "a.jpg", "a.webp")]
    monkeypatch.setattr(Image.Image, "load", decode)
    for kind in ("PngImagePlugin.PngImageFile", "ImageFile.ImageFile", "TiffImagePlugin.TiffImageFile"):
        monkeypatch.setattr(f"PIL.{kind}.load", decode)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", decode)
    assert [check_image(path) for path in paths] == [(80, 60)] * 4
