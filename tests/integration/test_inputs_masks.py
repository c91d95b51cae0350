# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Odd masks, and masks of other images, end in success or in one sentence that says what, where and what to do.

Each row: what is odd, and the sentence expected, or SUCCESS.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from anomalib.data import Tabular

from tests.integration.conftest import SUCCESS, Bench, expect
from tests.integration.test_inputs import WHOLE, noise


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


def compressed(masks: Path) -> None:
    """Store the first mask as JPEG."""
    path = masks / "000_mask.png"
    cv2.imwrite(str(masks / "000_mask.jpg"), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    path.unlink()


def ids(mask: np.ndarray) -> np.ndarray:
    """The upper half of a defect of one kind, the lower half of another."""
    return mask // 255 * np.where(np.arange(80) < 40, 1, 2)[:, None].astype(np.uint8)


def blurred(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask, (0, 0), 3)


def speckled(mask: np.ndarray) -> np.ndarray:
    return np.where(np.random.default_rng(0).random(mask.shape) < 0.01, 255, mask)


MASK_ROWS = [
    ("of half the size", rewrite(lambda m: m[::2, ::2]), r"mask \S*000_mask.png has 40 x 40 pixels, but its image"),
    ("turned", rewrite(lambda m: m[:60].T), r"has 60 x 80 pixels, but its image 000.png has 80 x 80: store the mask"),
    ("of grey values", rewrite(lambda m: m // 3), SUCCESS),
    ("of labels 0 and 1", rewrite(lambda m: m // 255), SUCCESS),
    ("of 16 bits", rewrite(lambda m: m.astype(np.uint16) * 257), SUCCESS),
    ("of ids", rewrite(ids), SUCCESS),
    (
        "that was compressed with loss",
        compressed,
        r"^The mask \S*000_mask.jpg has grey values .* with loss, .*: store it",
    ),
    (
        "that is blurred",
        rewrite(blurred),
        r"^The mask \S*000_mask.png has grey values between .*: store it in black and",
    ),
    ("that is inverted", rewrite(lambda m: 255 - m), r"^The mask \S*000_mask.png marks 96% of .*: invert it, or make"),
    ("with specks", rewrite(speckled), r"^The mask \S*000_mask.png has \d+ defects, of which \d+ are a single pixel"),
    ("that is a picture", rewrite(lambda _: noise(80, 80, 3)), r"^The mask \S*000_mask.png has (grey values|no black)"),
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


def test_masks_are_looked_at_before_a_training_and_not_after_it(bench: Bench, caplog) -> None:
    compressed(bench.parts / "ground_truth/hole")
    with caplog.at_level(logging.INFO):
        expect(r"^The mask \S*000_mask.jpg has grey values .* from a compression with loss", bench.train)
    assert "training phase" not in caplog.text


def two_kinds(parts: Path) -> None:
    """Give the defects a second kind, whose masks lie in folders that sort the other way round."""
    for old, new in (("ground_truth/hole", "masks/round"), ("test/hole", "test/dent")):
        (parts / old).rename((parts / new).parent.mkdir(exist_ok=True) or parts / new)
    for old, new in (("masks/round", "masks/long"), ("test/dent", "test/scratch")):
        shutil.copytree(parts / old, parts / new)


TWO_KINDS = {"abnormal_dir": ["test/scratch", "test/dent"], "mask_dir": ["masks/long", "masks/round"]}
PAIR_ROWS = [
    (
        "masks whose folders sort the other way round",
        two_kinds,
        TWO_KINDS,
        r"^The image \S*test/dent/000.png would get the mask \S*masks/long/000_mask.png, which is that of \S*scratch/0",
    ),
    (
        "kinds that cannot be told apart",
        two_kinds,
        {"abnormal_dir": ["test/dent", "test/scratch"], "mask_dir": "masks"},
        r"^The mask \S*masks/long/000_mask.png may be that of \S*test/dent/000.png or of \S*: give each mask the name",
    ),
    (
        "a mask that is not there",
        lambda parts: (parts / "ground_truth/hole/001_mask.png").unlink(),
        {},
        r"^The defective image \S*test/hole/001.png has no mask of its name among the 2 of its set: add it, or take",
    ),
    (
        "a mask without an image",
        lambda parts: (parts / "test/hole/001.png").unlink(),
        {},
        r"^The mask \S*001_mask.png belongs to none of the 2 defective images by its name: take it out, or give it",
    ),
]


@pytest.mark.parametrize("door", ["train", "test"])
@pytest.mark.parametrize(("change", "data", "expectation"), [pytest.param(*row[1:], id=row[0]) for row in PAIR_ROWS])
def test_whose_mask_it_is(bench: Bench, change: Callable, data: dict, expectation: str, door: str) -> None:
    change(bench.parts)
    expect(expectation, lambda: getattr(bench, door)(bench.data(**data)))


@pytest.mark.parametrize("door", ["train", "test"])
def test_an_image_of_a_table_without_a_mask_is_named(bench: Bench, door: str) -> None:
    own = bench.data()
    own.setup()
    table = pd.concat([own.train_data.samples, own.test_data.samples])[["image_path", "label_index", "mask_path"]]
    table["split"] = ["train" if "train" in path else "test" for path in table.image_path]
    table.iloc[-1, table.columns.get_loc("mask_path")] = ""
    batches = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, "val_split_mode": "same_as_test"}
    expect(
        r"^The defective image \S*test/hole/002.png has no mask, while others of its set have one: add it, or take",
        lambda: getattr(bench, door)(Tabular("parts", samples=table, **batches)),
    )


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
