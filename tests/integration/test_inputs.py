# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Odd images and sets end in success or in one sentence that says what, where and what to do.

Each row: what is odd, the door it comes through, and the sentence expected, or SUCCESS.
"""

import gc
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.integration.conftest import SUCCESS, Bench, expect

UNREADABLE = r"^The image \S*odd\.png cannot be read \(.+\): repair it or take it out of the folder\.$"
TOO_DEEP = r"^The image \S*odd\.(png|tif) has grey values of more than 8 bits.* clip at 255: convert it to 8 bits\.$"

NEARLY_BLACK = r"^The image \S*odd\.png has colours of 16 bits, .* leaves the uppermost empty: convert it to 8 bits\.$"
TURNED = r"^The image \S*odd\.jpg is marked to be shown turned \(EXIF orientation 6\).*: store it upright"
PAGES = r"^The image \S*odd\.tif holds 2 pictures, .*: store each in a file of its own\.$"


def noise(height: int, width: int, *channels: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, *channels), dtype)


def picture(array: np.ndarray, name: str = "odd.png") -> Callable[[Path], None]:
    """Write pixels; the name may have any characters."""
    return lambda folder: (folder / name).write_bytes(cv2.imencode(Path(name).suffix, array)[1].tobytes()) and None


def content(data: bytes, name: str = "odd.png") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def enormous(folder: Path) -> None:
    """A file of 60 bytes that claims to hold 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "odd.png").write_bytes(head + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))


def palette(folder: Path) -> None:
    Image.fromarray(noise(40, 40, 3)).quantize(16).save(folder / "odd.png")


def floats(folder: Path) -> None:
    Image.fromarray(noise(40, 40).astype(np.float32) / 255).save(folder / "odd.tif")


def turned(folder: Path) -> None:
    """As a camera stores what it took while it was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(60, 80, 3)).save(folder / "odd.jpg", exif=exif)


def pages(folder: Path) -> None:
    first, second = Image.fromarray(noise(80, 80, 3)), Image.fromarray(255 - noise(80, 80, 3))
    first.save(folder / "odd.tif", save_all=True, append_images=[second])


def cmyk(folder: Path) -> None:
    Image.fromarray(noise(80, 80, 3)).convert("CMYK").save(folder / "odd.jpg")


WHOLE = cv2.imencode(".png", noise(80, 80, 3))[1].tobytes()
JPEG = cv2.imencode(".jpg", noise(80, 80, 3))[1].tobytes()
ODD_IMAGES = [
    ("1 x 1 pixel", picture(noise(1, 1, 3)), "train test predict", SUCCESS),
    ("32 x 32 pixels", picture(noise(32, 32, 3)), "train predict", SUCCESS),
    ("4000 x 200 pixels", picture(noise(200, 4000, 3)), "train test predict", SUCCESS),
    ("grey", picture(noise(80, 80)), "train predict", SUCCESS),
    ("RGBA", picture(noise(80, 80, 4)), "train predict", SUCCESS),
    ("palette", palette, "predict", SUCCESS),
    ("16-bit RGB", picture(noise(80, 80, 3, dtype=np.uint16)), "train predict", SUCCESS),
    ("16-bit RGB TIFF", picture(noise(80, 80, 3, dtype=np.uint16), "odd.tif"), "train predict", SUCCESS),
    ("12 bits of 16 in RGB", picture(noise(80, 80, 3, dtype=np.uint16) // 16), "train test predict", NEARLY_BLACK),
    ("CMYK", cmyk, "train predict", SUCCESS),
    ("marked as turned", turned, "train test predict", TURNED),
    ("two pages", pages, "train test predict", PAGES),
    ("16-bit grey", picture(noise(80, 80, dtype=np.uint16)), "train test predict", TOO_DEEP),
    ("floating-point grey", floats, "predict", TOO_DEEP),
    ("truncated PNG", content(WHOLE[:9000]), "train test predict", UNREADABLE),
    ("truncated JPEG", content(JPEG[:2000]), "test predict", UNREADABLE),
    ("no bytes", content(b""), "train test predict", UNREADABLE),
    ("text called .png", content(b"good: yes\n"), "train test predict", UNREADABLE),
    ("folder called .png", lambda folder: (folder / "odd.png").mkdir(), "predict", UNREADABLE),
    ("folder called .png, which data modules pass over", lambda f: (f / "odd.png").mkdir(), "train test", SUCCESS),
    ("claim of 60,000 x 60,000 pixels", enormous, "test predict", UNREADABLE),
    ("name that is not ASCII", picture(noise(80, 80, 3), "Prüfling № 7 部品.png"), "train test predict", SUCCESS),
    ("name of 255 bytes", picture(noise(80, 80, 3), "n" * 251 + ".png"), "train test predict", SUCCESS),
]
IMAGE_ROWS = [
    pytest.param(make, door, expectation, id=f"{odd} -> {door}")
    for odd, make, doors, expectation in ODD_IMAGES
    for door in doors.split()
]


@pytest.mark.parametrize(("make", "door", "expectation"), IMAGE_ROWS)
def test_an_odd_image(bench: Bench, make: Callable, door: str, expectation: str | None) -> None:
    folder = bench.parts / ("train/good" if door == "train" else "test/good")
    others = len(list(folder.iterdir()))
    make(folder)
    result = expect(expectation, getattr(bench, door))
    if door == "predict" and expectation is SUCCESS:
        scores = [float(batch.pred_score) for batch in result]
        assert len(scores) == others + 1
        assert np.isfinite(scores).all()
        assert len(list(bench.folder.rglob("images/**/*.*"))) == others + 1  # a heat map ends as its image


@pytest.mark.parametrize("door", ["train", "test"])
def test_an_unreadable_image_is_named_from_a_worker_process_too(bench: Bench, door: str, monkeypatch) -> None:
    content(WHOLE[:9000])(bench.parts / ("train/good" if door == "train" else "test/good"))
    bench.loader_workers = 1
    # A loader that is thrown away with its exception may not reach its worker, and waits so many seconds for its end.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    action = (lambda: bench.train(cache_images=False, student_steps=3)) if door == "train" else bench.test
    expect(UNREADABLE, action)
    gc.collect()


def test_heat_maps_before_an_unreadable_image_are_kept(bench: Bench) -> None:
    content(b"")(bench.parts / "test/good")  # comes after 000.png, 001.png and 002.png
    expect(UNREADABLE, bench.predict)
    assert len(list(bench.folder.rglob("images/**/*.png"))) == 3


def empty(*folders: str) -> Callable[[Path], None]:
    return lambda parts: [path.unlink() for folder in folders for path in (parts / folder).iterdir()] and None


def one_left(parts: Path) -> None:
    for path in sorted((parts / "train/good").iterdir())[1:]:
        path.unlink()


UNTOUCHED = empty()
NO_DEFECTS = {"abnormal_dir": None, "mask_dir": None}
NO_TEST = NO_DEFECTS | {"normal_test_dir": None, "test_split_mode": "none"}
NO_VALIDATION = "^The data module parts has no validation set.*: pass val_split_mode=same_as_test, or synthetic"
SET_ROWS = [
    ("one training image, which recurs within a batch", one_left, {}, "train", SUCCESS),
    ("no validation set", UNTOUCHED, {"val_split_mode": "none"}, "train", NO_VALIDATION),
    ("no test set", UNTOUCHED, NO_TEST, "train", SUCCESS),
    ("no defective images", UNTOUCHED, NO_DEFECTS, "train", SUCCESS),
    ("no defective images", UNTOUCHED, NO_DEFECTS, "test", SUCCESS),
    ("no masks", UNTOUCHED, {"mask_dir": None}, "test", SUCCESS),
    # What anomalib's data module refuses, before a model is asked, with a sentence of anomalib's.
    ("empty test folder", empty("test/hole"), {}, "test", "^Found 0 .* images in "),
    ("empty training folder", empty("train/good"), {}, "train", "^Found 0 .* images in "),
]


@pytest.mark.parametrize(
    ("change", "data", "door", "expectation"), [pytest.param(*row[1:], id=f"{row[0]} -> {row[3]}") for row in SET_ROWS]
)
def test_a_set(bench: Bench, change: Callable, data: dict, door: str, expectation: str | None) -> None:
    change(bench.parts)
    if expectation and expectation.startswith("^Found 0"):
        with pytest.raises(RuntimeError, match=expectation):
            bench.data(**data).setup()
    else:
        expect(expectation, lambda: getattr(bench, door)(bench.data(**data)))


def test_an_empty_test_set_is_said_to_be_empty(bench: Bench, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert bench.test(bench.data(**NO_TEST)) == {}
    assert "The test set of parts has no image, and nothing is measured." in caplog.text


def test_an_image_score_without_normal_images_is_undefined_and_iap_is_not(bench: Bench) -> None:
    with pytest.warns(UserWarning, match="lacks normal or anomalous images, so image_AUROC is undefined"):
        result = bench.test(bench.data(normal_test_dir=None, test_split_mode="none"))
    assert np.isnan(result["image_AUROC"])
    assert 0 <= result["IAP"] <= 1
