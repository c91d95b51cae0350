# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Odd images, masks and sets end in success or in one sentence that says what, where and what to do.

Each row: what is odd, the door it comes through, and the sentence expected, or SUCCESS.
"""

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import SUCCESS, Bench, expect

UNREADABLE = r"^The image \S*odd\.png cannot be read \(.+\): repair it or take it out of the folder\.$"
TOO_DEEP = r"^The image \S*odd\.(png|tif) has grey values of more than 8 bits.* clip at 255: convert it to 8 bits\.$"


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
        assert len(list(bench.folder.rglob("images/**/*.png"))) == others + 1


@pytest.mark.parametrize("door", ["train", "test"])
def test_an_unreadable_image_is_named_from_a_worker_process_too(bench: Bench, door: str) -> None:
    content(WHOLE[:9000])(bench.parts / ("train/good" if door == "train" else "test/good"))
    bench.loader_workers = 1
    action = (lambda: bench.train(cache_images=False, student_steps=3)) if door == "train" else bench.test
    expect(UNREADABLE, action)


def test_heat_maps_before_an_unreadable_image_are_kept(bench: Bench) -> None:
    content(b"")(bench.parts / "test/good")  # comes after 000.png, 001.png and 002.png
    expect(UNREADABLE, bench.predict)
    assert len(list(bench.folder.rglob("images/**/*.png"))) == 3


def rewrite(value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change the first mask, an 80 x 80 array of 0 and 255."""

    def change(masks: Path) -> None:
        path = masks / "000_mask.png"
        cv2.imwrite(str(path), value(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))

    return change


def replace(data: bytes | None) -> Callable[[Path], None]:
    def change(masks: Path) -> None:
        (masks / "000_mask.png").unlink()
        if data is not None:
            (masks / "000_mask.png").write_bytes(data)

    return change


MASK_ROWS = [
    ("of half the size", rewrite(lambda m: m[::2, ::2]), r"mask \S*000_mask.png has 40 x 40 pixels, but its image"),
    ("turned", rewrite(lambda m: m[:60].T), r"has 60 x 80 pixels, but its image 000.png has 80 x 80: store the mask"),
    ("of grey values", rewrite(lambda m: m // 3), SUCCESS),
    ("of labels 0 and 1", rewrite(lambda m: m // 255), SUCCESS),
    ("of 16 bits", rewrite(lambda m: m.astype(np.uint16) * 257), SUCCESS),
    ("of three channels", rewrite(lambda m: np.dstack([m, m, m])), SUCCESS),
    ("of no bytes", replace(b""), r"^The mask \S*000_mask.png cannot be read \(.+\): repair it or take it out"),
    ("of text", replace(b"mask"), r"^The mask \S*000_mask.png cannot be read \(.+\): repair it or take it out"),
    ("that is truncated", replace(WHOLE[:9000]), r"^The mask \S*000_mask.png cannot be read \(.+\): repair it"),
]


@pytest.mark.parametrize(("change", "expectation"), [pytest.param(*row[1:], id=row[0]) for row in MASK_ROWS])
def test_a_mask(bench: Bench, figures: dict[str, float], change: Callable, expectation: str | None) -> None:
    change(bench.parts / "ground_truth/hole")
    result = expect(expectation, bench.test)
    if expectation is SUCCESS:
        assert result == pytest.approx(figures, abs=1e-6), "whatever is not black is a defect"


@pytest.fixture(scope="module")
def figures(tiny_trained, all_parts, tmp_path_factory) -> dict[str, float]:
    """The figures with masks as they should be."""
    return Bench(tmp_path_factory.mktemp("figures"), all_parts, *tiny_trained).test()


def test_a_black_mask_of_a_defective_image_is_reported_and_the_label_counts(bench: Bench, figures, caplog) -> None:
    rewrite(np.zeros_like)(bench.parts / "ground_truth/hole")
    with caplog.at_level(logging.WARNING):
        result = bench.test()
    assert "000.png" in caplog.text
    assert "labelled anomalous but has an empty mask; the label counts" in caplog.text
    assert result["image_AUROC"] == pytest.approx(figures["image_AUROC"])


def test_black_masks_only_give_image_figures(bench: Bench) -> None:
    for mask in (bench.parts / "ground_truth/hole").iterdir():
        cv2.imwrite(str(mask), np.zeros((80, 80), np.uint8))
    result = bench.test()
    assert 0 <= result["image_AUROC"] <= 1
    assert np.isnan(result["IAP"])


def empty(*folders: str) -> Callable[[Path], None]:
    return lambda parts: [path.unlink() for folder in folders for path in (parts / folder).iterdir()] and None


def one_left(parts: Path) -> None:
    for path in sorted((parts / "train/good").iterdir())[1:]:
        path.unlink()


UNTOUCHED = empty()
NO_DEFECTS = {"abnormal_dir": None, "mask_dir": None}
NO_TEST = NO_DEFECTS | {"normal_test_dir": None, "test_split_mode": "none"}
TOO_FEW = "^The training set has 1 images, fewer than one batch of 4 .*: lower train_batch_size or add images"
NO_VALIDATION = "^The data module parts has no validation set.*: pass val_split_mode=same_as_test, or synthetic"
SET_ROWS = [
    ("one training image", one_left, {}, "train", TOO_FEW),
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
