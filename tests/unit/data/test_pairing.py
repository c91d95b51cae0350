# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""No image is tested with the mask of another one: names decide, and where anomalib's order differs, both are named."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from anomalib.data import Folder, MVTecAD

from destseg_anomalib.data.images import UnusableImageError
from destseg_anomalib.data.pairing import check_folder, check_tables

NO_FAULT = None
SCRATCH_AND_DENT = ["t/scratch/0.png", "t/dent/0.png"]
WRONG_ORDER = "would get the mask .* since anomalib sorts"


def write(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")


def look(folder: object, fault: str | None) -> None:
    if fault is NO_FAULT:
        check_folder(folder)
        return
    with pytest.raises(UnusableImageError, match=fault) as caught:
        check_folder(folder)
    assert str(caught.value).endswith(".")
    assert len(str(caught.value).splitlines()) == 1


FOLDERS = [
    ("masks of the same names", ["t/0.png", "t/1.png"], ["m/0.png", "m/1.png"], "t", "m", NO_FAULT),
    ("masks with an ending", ["t/000.png", "t/001.png"], ["m/000_mask.png", "m/001_mask.png"], "t", "m", NO_FAULT),
    ("masks with leading zeros", ["t/1.png", "t/2.png"], ["m/001.png", "m/002.png"], "t", "m", NO_FAULT),
    ("an ending that sorts differently", ["t/1.png", "t/10.png"], ["m/1_m.png", "m/10_m.png"], "t", "m", WRONG_ORDER),
    ("a number within another one", ["t/1.png"], ["m/10.png"], "t", "m", r"t/1\.png has no mask of its name"),
    ("a mask too few", ["t/0.png", "t/1.png"], ["m/0.png"], "t", "m", r"image \S*t/1\.png has no mask"),
    ("a mask too many", ["t/0.png"], ["m/0.png", "m/1.png"], "t", "m", r"mask \S*m/1\.png belongs to none of the 1"),
    ("two masks of an image", ["t/0.png"], ["m/0_a.png", "m/0_b.png"], "t", "m", r"t/0\.png has 2 masks, \S*0_a"),
    ("two types of file", ["t/a.png", "t/a.jpg"], ["m/a.png", "m/a.jpg"], "t", "m", NO_FAULT),
    ("images that are their own masks", ["t/0.png"], [], "t", "t", r"t/0\.png is listed as an image and as a mask"),
    (
        "masks below their images",
        ["t/0.png"],
        ["t/m/0.png"],
        "t",
        "t/m",
        r"t/m/0\.png is listed as an image and as a m",
    ),
    (
        "masks below good images",
        ["t/0.png"],
        ["good/m/0.png"],
        "t",
        "good/m",
        r"mask \S*good/m/0\.png lies among the g",
    ),
    (
        "lists in an order that sorting turns round",
        SCRATCH_AND_DENT,
        ["m/long/0.png", "m/round/0.png"],
        ["t/scratch", "t/dent"],
        ["m/long", "m/round"],
        r"t/dent/0\.png would get the mask \S*m/long/0\.png, which is that of \S*t/scratch/0\.png",
    ),
    (
        "lists in the order of sorting",
        SCRATCH_AND_DENT,
        ["m/long/0.png", "m/round/0.png"],
        ["t/dent", "t/scratch"],
        ["m/long", "m/round"],
        NO_FAULT,
    ),
    (
        "lists in unlike order of folders that have the same names",
        SCRATCH_AND_DENT,
        ["m/scratch/0.png", "m/dent/0.png"],
        ["t/scratch", "t/dent"],
        ["m/dent", "m/scratch"],
        NO_FAULT,
    ),
    (
        "lists of unlike lengths",
        ["t/scratch/0.png", "t/dent/1.png"],
        ["m/0.png", "m/1.png"],
        ["t/scratch", "t/dent"],
        "m",
        WRONG_ORDER,
    ),
    (
        "numbers of masks that make up for each other",
        ["t/a/0.png", "t/a/1.png", "t/b/0.png"],
        ["m/x/0.png", "m/y/0.png", "m/y/1.png"],
        ["t/a", "t/b"],
        ["m/x", "m/y"],
        WRONG_ORDER,
    ),
    ("kinds below one folder", SCRATCH_AND_DENT, ["m/scratch/0.png", "m/dent/0.png"], "t", "m", NO_FAULT),
    ("kinds of other names", SCRATCH_AND_DENT, ["m/x/0.png", "m/y/0.png"], "t", "m", r"x/0\.png may be that of \S*t/d"),
    ("kinds with an ending", ["t/1/0.png", "t/10/0.png"], ["m/1_m/0.png", "m/10_m/0.png"], "t", "m", WRONG_ORDER),
]


@pytest.mark.parametrize(
    ("images", "masks", "abnormal_dir", "mask_dir", "fault"), [pytest.param(*row[1:], id=row[0]) for row in FOLDERS]
)
def test_a_folder(
    tmp_path: Path, images: Sequence[str], masks: Sequence[str], abnormal_dir: object, mask_dir: object, fault: str
) -> None:
    write(tmp_path, "good/0.png", *images, *masks)
    look(Folder("x", root=tmp_path, normal_dir="good", abnormal_dir=abnormal_dir, mask_dir=mask_dir), fault)


@pytest.mark.parametrize(
    ("masks", "fault"),
    [
        (("scratch/0_mask.png", "dent/0_mask.png"), NO_FAULT),
        (("scratch/0_mask.png",), r"test/dent/0\.png has no mask"),
        (
            ("a_scratch/0_mask.png", "b_dent/0_mask.png"),
            r"test/dent/0\.png would get the mask \S*a_scratch/0_mask\.png",
        ),
    ],
)
def test_the_layout_of_mvtec_ad(tmp_path: Path, masks: Sequence[str], fault: str | None) -> None:
    images = ("train/good/0.png", "test/good/0.png", "test/scratch/0.png", "test/dent/0.png")
    write(tmp_path / "bottle", *images, *(f"ground_truth/{mask}" for mask in masks))
    look(MVTecAD(root=tmp_path, category="bottle"), fault)


@pytest.mark.parametrize("missing", [{"mask_dir": None}, {"abnormal_dir": None, "mask_dir": None}])
def test_a_folder_without_masks_is_left_alone(part_folder: Path, missing: dict) -> None:
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/hole", "mask_dir": "ground_truth/hole"}
    check_folder(Folder("x", root=part_folder, **(folders | missing)))


def test_what_is_no_data_module_of_folders_is_left_alone() -> None:
    check_folder(None)


def table(*rows: tuple[str, int, object], task: str = "segmentation") -> SimpleNamespace:
    samples = pd.DataFrame(rows, columns=["image_path", "label_index", "mask_path"])
    samples.attrs["task"] = task
    return SimpleNamespace(samples=samples)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, *(f"{folder}/{number}.png" for folder in ("t", "m", "m/5") for number in range(3)))


TABLES = [
    ("an empty path", [("t/0.png", 1, ""), ("t/1.png", 1, "m/1.png")], r"image t/0\.png has no mask, while others"),
    ("no path", [("t/0.png", 1, None)], r"image t/0\.png has no mask, while others"),
    ("not a number", [("t/0.png", 1, float("nan"))], r"image t/0\.png has no mask, while others"),
    ("a path that leads nowhere", [("t/0.png", 1, "m/7.png")], r"image t/0\.png has no mask, since m/7\.png does not"),
    ("an image as its own mask", [("t/0.png", 1, "t/0.png")], r"t/0\.png is listed as an image and as its own mask"),
    ("two masks", [("t/0.png", 1, "m/0.png"), ("t/0.png", 1, "m/1.png")], r"listed with two masks, m/0\.png and m/1"),
    ("two labels", [("t/0.png", 0, ""), ("t/0.png", 1, "m/0.png")], r"t/0\.png is listed as normal and as defective"),
    ("masks of each other", [("t/0.png", 1, "m/1.png"), ("t/1.png", 1, "m/0.png")], r"t/0\.png would get the mask m/1"),
    ("good images without masks", [("t/0.png", 0, ""), ("t/1.png", 1, "m/1.png")], NO_FAULT),
    ("masks of names of their own", [("t/0.png", 1, "m/2.png"), ("t/1.png", 1, "m/1.png")], NO_FAULT),
    ("several masks, as in MVTec LOCO AD", [("t/2.png", 1, ["m/5/0.png", "m/5/1.png"])], NO_FAULT),
]


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize(("rows", "fault"), [pytest.param(*row[1:], id=row[0]) for row in TABLES])
def test_a_table(rows: list, fault: str | None) -> None:
    if fault is NO_FAULT:
        check_tables([table(*rows)])
        return
    with pytest.raises(UnusableImageError, match=fault):
        check_tables([table(*rows)])


@pytest.mark.usefixtures("in_folder")
def test_images_that_are_only_labelled_need_no_masks() -> None:
    check_tables([table(("t/0.png", 1, ""), task="classification"), SimpleNamespace(samples=pd.DataFrame())])


@pytest.mark.usefixtures("in_folder")
def test_one_set_tells_what_belongs_to_an_image_of_another() -> None:
    with pytest.raises(UnusableImageError, match=r"t/1\.png would get the mask m/0\.png, which is that of t/0\.png"):
        check_tables([table(("t/0.png", 1, "m/2.png")), table(("t/1.png", 1, "m/0.png"))])
