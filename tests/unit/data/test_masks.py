# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A mask passes if anomalib takes for defects what was drawn, and is refused in one sentence if not."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from anomalib.data.utils import read_mask
from PIL import Image

from destseg_anomalib.data.images import UnusableImageError
from destseg_anomalib.data.masks import check_mask

SIZE = (80, 80)
MASK = cv2.circle(cv2.circle(np.zeros(SIZE, np.uint8), (30, 40), 12, 255, -1), (60, 20), 8, 255, -1)
IDS = np.where(np.arange(80) < 45, MASK // 255, MASK // 255 * 3).astype(np.uint8)  # left circle 1, right circle 3
OPAQUE, NONE = np.full_like(MASK, 255), np.zeros_like(MASK)
NOISE = np.random.default_rng(0)


def many_ids() -> np.ndarray:
    """36 squares of the values 1 to 36."""
    return np.pad(np.kron(np.arange(1, 37, dtype=np.uint8).reshape(6, 6), np.pad(np.ones((9, 9), np.uint8), 2)), 1)


def salt(share: float) -> np.ndarray:
    return np.where(np.random.default_rng(0).random(SIZE) < share, 255, MASK).astype(np.uint8)


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(IDS)
    image.putpalette([level for colour in colours for level in colour])
    return image


def jpeg(quality: int) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(MASK).save(path, "JPEG", quality=quality)


def through_jpeg() -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", MASK)[1], cv2.IMREAD_GRAYSCALE)


RIGHT = [
    ("0 and 255", MASK),
    ("0 and 1", MASK // 255),
    ("0 and 7", MASK // 255 * 7),
    ("1 bit", MASK > 0),
    ("16 bits", MASK.astype(np.uint16) * 3),
    ("floating-point ones", (MASK / 255).astype(np.float32)),
    ("ids", IDS),
    ("many ids", many_ids()),
    ("many ids that are spread out", many_ids() * 7),
    ("ids of 16 bits", IDS.astype(np.uint16) * 1000),
    ("ids as colours", palette((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200))),
    ("three equal channels", np.dstack([MASK] * 3)),
    ("red", np.dstack([MASK, NONE, NONE])),
    ("black and white palette", Image.fromarray(MASK).convert("P")),
    ("opaque", np.dstack([MASK, MASK, MASK, OPAQUE])),
    ("white on what is transparent", np.dstack([MASK] * 4)),
    ("smoothed outline", cv2.circle(NONE.copy(), (30, 40), 12, 255, -1, cv2.LINE_AA)),
    ("smoothed line", cv2.line(NONE.copy(), (10, 10), (70, 50), 255, 1, cv2.LINE_AA)),
    ("all black", NONE),
    ("all white", OPAQUE),
    ("a few dots", cv2.bitwise_or(MASK, np.where(np.eye(80) * (np.arange(80) % 20 == 0) > 0, 255, 0).astype(np.uint8))),
]
FADES = "grey values between black and white.*: store it in black and white, as PNG"
HIDDEN = "nearly black or cannot be seen.*: store it in black and white, without transparency"
WRONG = [
    ("blurred", cv2.GaussianBlur(MASK, (5, 5), 0), FADES),
    ("strongly blurred", cv2.GaussianBlur(MASK, (0, 0), 6), FADES),
    ("JPEG", jpeg(75), "from a compression with loss, or as of"),
    ("JPEG of highest quality", jpeg(100), "from a compression with loss, or as of"),
    ("PNG that was a JPEG", through_jpeg(), FADES),
    ("grey picture", NOISE.integers(0, 256, SIZE, np.uint8), FADES),
    ("colour picture", NOISE.normal(128, 25, (*SIZE, 3)).clip(0, 255).astype(np.uint8), "has no black pixel"),
    ("two values, none of which is black", MASK // 255 + 1, "has no black pixel, .*: make all black that is good"),
    ("ids in blue, nearly black", np.dstack([NONE, NONE, IDS]), HIDDEN),
    ("ids as colours, one nearly black", palette((0, 0, 0), (0, 0, 4), (0, 200, 0), (0, 0, 200)), HIDDEN),
    ("floating-point halves", (MASK / 510).astype(np.float32), HIDDEN),
    ("transparent where white", np.dstack([OPAQUE, OPAQUE, OPAQUE, MASK]), HIDDEN),
    ("transparent where nothing is drawn in black", np.dstack([NONE, NONE, NONE, MASK]), HIDDEN),
    ("inverted", 255 - MASK, "marks 90% of the picture .* as if white meant good: invert it, or"),
    ("noise", salt(0.01), r"has \d+ defects, of which \d+ are a single pixel .*: take the specks out, or outline"),
]


def store(mask: object, folder: Path) -> str:
    if callable(mask):
        path = folder / "mask.jpg"
        mask(path)
    else:
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        path = folder / ("mask.tif" if image.mode == "F" else "mask.png")
        image.save(path)
    return str(path)


@pytest.mark.parametrize("mask", [pytest.param(mask, id=name) for name, mask in RIGHT])
def test_a_mask_that_is_plain_passes(mask: object, tmp_path: Path) -> None:
    check_mask(store(mask, tmp_path), "image.png", SIZE)


@pytest.mark.parametrize(("mask", "fault"), [pytest.param(*row[1:], id=row[0]) for row in WRONG])
def test_a_mask_that_anomalib_would_misread_is_named(mask: object, fault: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableImageError, match=rf"^The mask \S*mask\.(png|jpg|tif) .*{fault}.*\.$") as caught:
        check_mask(store(mask, tmp_path), "image.png", SIZE)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("mask", [pytest.param(mask, id=name) for name, mask in RIGHT[:9]])
def test_what_passes_is_what_anomalib_reads(mask: object, tmp_path: Path) -> None:
    drawn = np.asarray(mask) > 0
    assert np.array_equal(read_mask(store(mask, tmp_path), as_tensor=True).numpy() > 0, drawn)


def test_every_real_mask_passes_and_no_real_picture_does(shared: Path) -> None:
    def passes(path: Path) -> bool:
        try:
            check_mask(str(path), "image.png", Image.open(path).size)
        except UnusableImageError:
            return False
        return True

    for folder in ("mvtec_ad/bottle", "magnetic_tile", "kolektor"):
        masks = sorted((shared / "data" / folder / "ground_truth").glob("*/*"))[::8]
        pictures = sorted((shared / "data" / folder / "test").glob("*/*"))[::16]
        assert masks
        assert pictures
        assert all(map(passes, masks))
        assert not any(map(passes, pictures))
