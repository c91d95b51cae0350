# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that show which defects a model finds and which it misses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from destseg_anomalib.metrics.curves import InstanceCurve
from destseg_anomalib.metrics.figures import PixelFigures
from destseg_anomalib.metrics.images import ImageRecord
from destseg_anomalib.metrics.picture_pixels import boxes_in_picture
from destseg_anomalib.metrics.plotting import plot_instance_curve
from destseg_anomalib.metrics.verdicts import Verdict


def instance_table(images: Sequence[ImageRecord], figures: PixelFigures, said: Sequence[Verdict]) -> pd.DataFrame:
    """List every ground-truth region with its score.

    Args:
        images: The test images, in the order in which they were evaluated.
        figures: Their figures, with at least one region.
        said: What the model says of each image, at its threshold.

    Returns:
        One row a region: ``image`` (path), ``region`` (number in its image), ``left``, ``top``, ``width``, ``height``
        and ``area`` in pixels of the picture (of the evaluated mask where `ImageRecord.size` is ``None``), ``score``
        (raw), ``rank`` (1 for the highest score) and ``found`` (whether more than half of it is predicted; never where
        the model predicts no mask).
    """
    per_image = [image.regions or 0 for image in images]
    boxes = np.column_stack([figures.regions.boxes, figures.regions.areas])
    parts = np.split(boxes, np.cumsum(per_image)[:-1])
    placed = [
        boxes_in_picture(part, image.map_size, image.size)
        for image, part in zip(images, parts, strict=True)
        if len(part)
    ]
    table = pd.DataFrame(np.concatenate(placed), columns=["left", "top", "width", "height", "area"])
    table.insert(0, "image", np.repeat([image.path for image in images], per_image))
    table.insert(1, "region", np.concatenate([np.arange(count) + 1 for count in per_image]))
    found = [
        np.zeros(count, bool) if verdict.found is None else verdict.found
        for verdict, count in zip(said, per_image, strict=True)
    ]
    scores = pd.Series(figures.regions.scores)
    rank = scores.rank(ascending=False, method="min").astype(int)
    return table.assign(score=scores, rank=rank, found=np.concatenate(found))


def curve_table(curve: InstanceCurve) -> pd.DataFrame:
    """Tabulate pixel precision over instance recall.

    Args:
        curve: The curve, N regions.

    Returns:
        N rows: ``threshold``, ``instance_recall``, ``precision`` and its sure bounds ``lower`` and ``upper``.
    """
    regions = curve.scores.size
    return pd.DataFrame(
        {
            "threshold": curve.scores,
            "instance_recall": np.arange(regions, 0, -1) / regions,
            "precision": curve.precision,
            "lower": curve.lower,
            "upper": curve.upper,
        }
    )


def write_report(folder: Path, images: Sequence[ImageRecord], figures: PixelFigures, said: Sequence[Verdict]) -> None:
    """Write ``instances.csv``, ``iap_curve.csv`` and ``iap_curve.png``.

    Args:
        folder: Where to write; made if missing.
        images: The test images.
        figures: Their figures, with at least one region.
        said: What the model says of each image, at its threshold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    instance_table(images, figures, said).to_csv(folder / "instances.csv", index=False)
    curve_table(figures.curve).to_csv(folder / "iap_curve.csv", index=False)
    picture = Figure(layout="constrained")  # not pyplot's: a test should not open windows or touch the user's figures
    plot_instance_curve(figures.curve, ax=picture.add_subplot())
    picture.savefig(folder / "iap_curve.png", dpi=150)
