# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a model's own threshold does in a test: defects found, alarms on good parts, false regions."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import Batch
from numpy.typing import NDArray
from rich import get_console
from rich.table import Table

from destseg_anomalib.metrics.images import ImageRecord
from destseg_anomalib.metrics.instances import find_regions, label_regions


class Verdict(NamedTuple):
    """What a model says of one image, at its threshold.

    Attributes:
        alarm: Whether the part is bad, ``None`` if the model does not say.
        found: Boolean ``(R,)``, whether more than half of each region of the mask is predicted, in the order of
            `find_regions`; ``None`` without a mask or a prediction.
        false_regions: Predicted regions that touch no defective pixel, ``None`` likewise.
    """

    alarm: bool | None
    found: NDArray[np.bool_] | None
    false_regions: int | None


def verdicts(batch: Batch, min_area: int = 1) -> list[Verdict]:
    """Read what a post-processor has said of a batch.

    Args:
        batch: With ``pred_label`` ``(N,)``, ``pred_mask`` and ``gt_mask``, both ``(N, H, W)`` or ``(N, 1, H, W)``, as
            far as there are any.
        min_area: Pixels that a predicted region must have to count.

    Returns:
        A verdict for each image.
    """
    count = batch.batch_size
    alarms = [None] * count if batch.pred_label is None else batch.pred_label.flatten().bool().tolist()
    if batch.pred_mask is None or batch.gt_mask is None:
        return [Verdict(alarm, None, None) for alarm in alarms]
    predicted, masks = (_planes(tensor, count) for tensor in (batch.pred_mask, batch.gt_mask))
    return [
        Verdict(alarm, find_regions(one.astype(np.float32), mask)[1].scores > 0.5, _false_regions(one, mask, min_area))
        for alarm, one, mask in zip(alarms, predicted, masks, strict=True)
    ]


def _planes(tensor: torch.Tensor, count: int) -> NDArray[np.bool_]:
    return tensor.bool().cpu().reshape(count, *tensor.shape[-2:]).contiguous().numpy()


def _false_regions(predicted: NDArray[np.bool_], mask: NDArray[np.bool_], min_area: int) -> int:
    labels, boxes = label_regions(predicted)
    is_false = boxes[:, 4] >= min_area
    is_false[np.unique(labels[mask & predicted]) - 1] = False
    return int(is_false.sum())


def share(count: int, total: int) -> dict[str, Any]:
    """A share of a sample with its 95 % interval after Wilson (JASA 22(158), 1927).

    Args:
        count: How many of the sample have the property.
        total: Size of the sample.

    Returns:
        ``count``, ``of``, ``share`` and ``interval_95``, the last two ``None`` for an empty sample.

    Example:
        >>> share(24, 26)
        {'count': 24, 'of': 26, 'share': 0.9231, 'interval_95': [0.7586, 0.9786]}
    """
    from scipy.stats import binomtest  # noqa: PLC0415  takes a second to import

    if not total:
        return {"count": count, "of": total, "share": None, "interval_95": None}
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    ends = [round(float(end), 4) for end in (interval.low, interval.high)]
    return {"count": count, "of": total, "share": round(count / total, 4), "interval_95": ends}


def operating_point(images: Sequence[ImageRecord], said: Sequence[Verdict], post_processor: Any) -> dict[str, Any]:  # noqa: ANN401
    """Count what a model's threshold does.

    Args:
        images: The test images; one that a sampler has repeated counts once.
        said: The verdict on each.
        post_processor: The model's, which says its thresholds on raw maps and, as `OperatingPoint` does, its promise.

    Returns:
        Plain data: ``promise``, ``threshold`` of pixels and ``threshold_of_parts`` (of raw values, ``None`` where the
        post-processor has no one threshold), ``images``, ``defects_found`` and ``alarms_on_good_parts`` as
        :func:`share` and ``false_regions_per_image``, each ``None`` where the data has no masks or no labels.
    """
    once = {image.path: (image, verdict) for image, verdict in zip(images, said, strict=True)}.values()
    found = [verdict.found for _, verdict in once if verdict.found is not None]
    false_regions = [verdict.false_regions for _, verdict in once if verdict.false_regions is not None]
    good = [verdict.alarm for image, verdict in once if image.label is False and verdict.alarm is not None]
    promise = getattr(post_processor, "promise", None)
    return {
        "promise": None if promise is None else {**promise._asdict(), "min_area": post_processor.min_area},
        "threshold": _threshold(post_processor, "pixel"),
        "threshold_of_parts": _threshold(post_processor, "image"),
        "images": len(once),
        "defects_found": share(sum(int(each.sum()) for each in found), sum(map(len, found))) if found else None,
        "alarms_on_good_parts": share(sum(good), len(good)) if good else None,
        "false_regions_per_image": round(float(np.mean(false_regions)), 4) if false_regions else None,
    }


def _threshold(post_processor: Any, of: str) -> float | None:  # noqa: ANN401
    """Threshold of pixels or images on raw values; a sensitivity moves it, as a share of the range of the values."""
    names = (f"{of}_threshold", f"{of}_sensitivity", f"{of}_min", f"{of}_max")
    values = [getattr(post_processor, name, math.nan) for name in names]
    at, sensitivity, lowest, highest = map(float, values)
    threshold = at if sensitivity == 0.5 else at + (0.5 - sensitivity) * (highest - lowest)
    return threshold if math.isfinite(threshold) else None


def write_operating_point(point: Mapping[str, Any], folder: Path) -> None:
    """Write ``operating_point.json``.

    Args:
        point: As of :func:`operating_point`.
        folder: Where; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "operating_point.json").write_text(json.dumps(point, indent=2) + "\n", encoding="utf-8")


def print_operating_point(point: Mapping[str, Any]) -> None:
    """Print a table of it.

    Args:
        point: As of :func:`operating_point`.
    """
    table = Table("at the model's threshold", "", "share", "95 % interval")
    for name in ("threshold", "threshold_of_parts"):
        value = point[name]
        if value is not None and (name == "threshold" or value != point["threshold"]):
            table.add_row(name.replace("_", " ") + ", of raw values", f"{value:.6g}")
    for name in ("defects_found", "alarms_on_good_parts"):
        if (counted := point[name]) is not None and counted["of"]:
            low, high = counted["interval_95"]
            count = f"{counted['count']} of {counted['of']}"
            table.add_row(name.replace("_", " "), count, f"{counted['share']:.1%}", f"{low:.1%} to {high:.1%}")
    if (regions := point["false_regions_per_image"]) is not None:
        table.add_row("false regions per image", f"{regions:.2f}")
    get_console().print(table)  # whose progress bar makes room
