# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of the defects that the models find best, find worst and miss."""

import base64
from pathlib import Path, PurePath
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from destseg_anomalib.metrics.instances import label_regions

GROUPS = {
    "missed": "Missed: below the threshold of IAP@90 in at least one model",
    "worst": "Found worst: every model finds it, but ranks it low",
    "best": "Found best: every model finds it, and ranks it high",
}
SHOWN = 4  # of each group and category
SIDE = 208  # pixels of a picture's longer side
BUDGET = 4_000_000  # bytes of all pictures together, as text


class MapView(NamedTuple):
    """One model's map: the model, its verdict, whether that is found, and the picture, empty if it is not there."""

    model: str
    verdict: str
    found: bool
    picture: str


class DefectView(NamedTuple):
    """One defect: its name, the image with the defect outlined, what is missing of that, its shape, and the maps."""

    name: str
    picture: str
    aspect: str
    lack: str
    maps: list[MapView]


class Gallery(NamedTuple):
    """Defects by category and group, and the number of those that were left out to keep the page small."""

    places: dict[str, dict[str, list[DefectView]]]
    left_out: int


def make_gallery(defects: pd.DataFrame) -> Gallery:
    """Choose defects and embed their pictures, until the budget is spent.

    Args:
        defects: What :func:`~destseg_anomalib.report.records.read_defects` returns.

    Returns:
        The gallery. Where a picture cannot be read, the view says so.
    """
    places: dict[str, dict[str, list[DefectView]]] = {}
    spent = left_out = 0
    # The first of every group and category come before the second of any, so that none is left empty.
    for place, group, views in choose(defects):
        if spent > BUDGET:
            left_out += 1
            continue
        view = _view(views)
        spent += len(view.picture) + sum(len(each.picture) for each in view.maps)
        places.setdefault(place, {}).setdefault(group, []).append(view)
    return Gallery(places, left_out)


def choose(defects: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Choose the defects to show.

    Args:
        defects: A row for each defect and model.

    Returns:
        Category, group (a key of ``GROUPS``) and the rows of each chosen defect, the most telling of every group and
        category first.
    """
    if defects.empty:
        return []
    by_defect = defects.assign(low=(defects["rank"] - 0.5) / defects["of"]).groupby(
        ["place", "image", "region"], sort=False
    )
    table = by_defect.agg(
        missed=("found", lambda found: int((~found).sum())), low=("low", "mean"), seen=("model", "size")
    )
    models = defects.groupby("place")["model"].nunique()
    chosen = []
    for place, here in table.groupby("place", sort=False):
        # Models may have been tested on other images, or at a size at which a defect is none.
        found = here[(here["missed"] == 0) & (here["seen"] == models[place])].sort_values("low", kind="stable")
        # With few defects none is to be both among the best and the worst.
        half = (len(found) + 1) // 2
        groups = {
            "best": found[:half],
            "worst": found[half:][::-1],
            "missed": here[here["missed"] > 0].sort_values(["missed", "low"], ascending=False, kind="stable"),
        }
        for group, members in groups.items():
            for level, key in enumerate(members.index[:SHOWN]):
                chosen.append((level, str(place), group, by_defect.get_group(key)))
    return [(place, group, rows) for _, place, group, rows in sorted(chosen, key=lambda choice: choice[0])]


def outline(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], box: NDArray[np.int64], extent: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Outline the defects of an image in white on black, the one in question with a thicker line.

    Args:
        image: ``(H, W, 3)``.
        mask: Its mask ``(h, w)``, defective where it is not 0.
        box: Left, top, width and height of the defect in pixels of the evaluated mask.
        extent: Right and lower end of all the image's defects, in the same pixels.

    Returns:
        A new image.
    """
    labels, boxes = label_regions(cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0)
    drawn = image.copy()
    if not len(boxes):
        return drawn
    # The size of the evaluated mask is not recorded, but what lies farthest right in it does so in the image too.
    scale = (boxes[:, :2] + boxes[:, 2:4]).max(axis=0) / extent
    left, top = (box[:2] * scale).astype(int)
    right, bottom = np.ceil((box[:2] + box[2:]) * scale).astype(int)
    counts = np.bincount(labels[top:bottom, left:right].ravel(), minlength=len(boxes) + 1)
    chosen = counts[1:].argmax() + 1
    for label in range(1, len(boxes) + 1):
        contours, _ = cv2.findContours((labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        thickness = 3 if label == chosen else 1
        cv2.drawContours(drawn, contours, -1, (0, 0, 0), thickness + 2, cv2.LINE_AA)
        cv2.drawContours(drawn, contours, -1, (255, 255, 255), thickness, cv2.LINE_AA)
    return drawn


def _view(rows: pd.DataFrame) -> DefectView:
    """Views of one defect by all models."""
    maps = []
    for row in rows.itertuples():
        verdict = f"{'✓ found' if row.found else '✗ missed'}, {row.rank} of {row.of}"
        maps.append(MapView(str(row.model), verdict, bool(row.found), _embed(_read(str(row.map_path)))))
    first = rows.iloc[0]
    path = PurePath(first["image_path"])
    name = f"{path.parent.name}/{path.stem}, defect {first['region']}"
    image, mask = _read(first["image_path"]), _read(first["mask_path"])
    if image is None:
        return DefectView(name, "", "1", f"The image is not on this machine: {path}", maps)
    image = _shrink(image)
    aspect = f"{image.shape[1]} / {image.shape[0]}"
    if mask is None:
        return DefectView(name, _embed(image), aspect, "Its mask is not on this machine, so nothing is outlined.", maps)
    box = first[["left", "top", "width", "height"]].to_numpy(dtype=np.int64)
    extent = first[["right", "bottom"]].to_numpy(dtype=np.int64)
    return DefectView(name, _embed(outline(image, np.ascontiguousarray(mask[..., 0]), box, extent)), aspect, "", maps)


def _read(path: str) -> NDArray[np.uint8] | None:
    """An image file as BGR, ``None`` if there is none that can be read."""
    if not path or not Path(path).is_file():
        return None
    image: NDArray[np.uint8] | None = cv2.imread(path, cv2.IMREAD_COLOR)
    return image


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = SIDE / max(image.shape[:2])
    size = [max(round(scale * length), 1) for length in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _embed(image: NDArray[np.uint8] | None) -> str:
    """A data URI, empty without an image."""
    if image is None:
        return ""
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
