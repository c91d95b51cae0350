# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a benchmark left on disk, as tables."""

import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from destseg_anomalib.report.configurations import tell_apart
from destseg_anomalib.report.results import COSTS, ENVIRONMENT, METRICS, read_result
from destseg_anomalib.report.tables import AVERAGE

KEYS = ("job", "model", "dataset", "category", "status")
SAME_PLACE = 0.1  # of the extent of an image's defects: with the size of the mask a defect's box moves less


class Failure(NamedTuple):
    """A job that failed.

    Attributes:
        job: Its name.
        reason: The first line of its exception.
        traceback: All of its traceback; both are empty if nothing was recorded.
    """

    job: str
    reason: str
    traceback: str


def read_rows(results_dir: Path) -> pd.DataFrame:
    """Read ``results.csv``, one row a job.

    Args:
        results_dir: The folder of a benchmark.

    Returns:
        The rows in the order of the file, with what :func:`~destseg_anomalib.report.configurations.tell_apart` adds
        and a column ``place`` that names data set and category as briefly as the benchmark allows. Figures are floats
        in [0, 1], NaN where a job failed or left one undefined.

    Raises:
        ValueError: If the file is missing, unreadable, empty or lacks columns.
    """
    file = results_dir / "results.csv"
    if not file.is_file():
        msg = f"There is no results.csv in {results_dir}: give the folder into which `anomalib benchmark` wrote."
        raise ValueError(msg)
    try:
        # A category may be called NA or null.
        gaps = {name: [""] for name in (*METRICS, *COSTS)}
        texts = dict.fromkeys((*KEYS, *ENVIRONMENT), "string")
        rows = pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=gaps)
        missing = [name for name in (*KEYS, "seed", *METRICS, *COSTS, *ENVIRONMENT) if name not in rows]
        numbers = [name for name in (*METRICS, *COSTS) if name in rows]
        rows[numbers] = rows[numbers].astype(float)
    except ValueError as error:  # pandas' own errors are among them
        msg = f"{file} cannot be read ({error}): delete it and run the benchmark again, which repeats no finished job."
        raise ValueError(msg) from error
    if missing or rows.empty:
        lack = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        msg = f"{file} {lack}: delete it and run the benchmark again, which repeats no finished job."
        raise ValueError(msg)
    rows[list(texts)] = rows[list(texts)].fillna("")
    rows["category"] = rows["category"].replace(AVERAGE, f"{AVERAGE} (category)")  # that is no average
    # Results may have been moved without their jobs.
    records = [read_result(results_dir / "jobs" / job) or {} for job in rows["job"]]
    rows = tell_apart(rows, [record.get("config") for record in records])
    rows["place"] = rows["category"].where(rows["category"] != "", rows["dataset"])
    if rows["dataset"].nunique() > 1:
        rows["place"] = (rows["dataset"] + " / " + rows["category"]).str.removesuffix(" / ")
    return rows


def read_failures(results_dir: Path, rows: pd.DataFrame) -> list[Failure]:
    """List the jobs that failed, with their reasons."""
    failures = []
    for job in rows.loc[rows["status"] != "finished", "job"]:
        record = read_result(results_dir / "jobs" / job) or {}  # results may have been moved without their jobs
        traceback = str(record.get("traceback") or "").strip()
        # The exception is what follows the last frame; its own text may go over several lines.
        last_frame = traceback.rpartition('\n  File "')[2].splitlines()
        reason = next((line for line in last_frame[1:] if not line.startswith(" ")), traceback.rpartition("\n")[2])
        failures.append(Failure(job, reason, traceback))
    return failures


def read_curves(results_dir: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Read the curves of pixel precision over instance recall, as the mean over seeds.

    Args:
        results_dir: The folder of a benchmark.
        rows: Its rows.

    Returns:
        ``place``, ``model``, ``instance_recall`` and ``precision``, both in [0, 1], recall ascending.
    """
    tables = []
    for (place, model), jobs in _finished(rows).groupby(["place", "model"], sort=False):
        files = [results_dir / "jobs" / job / "curve.csv" for job in jobs["job"].unique()]
        curves = [pd.read_csv(file).sort_values("instance_recall") for file in files if file.is_file()]
        curves = [curve for curve in curves if len(curve)]
        if curves:
            # Seeds may have other images, and with them other recalls, between which a curve is a step.
            recall = np.unique(np.concatenate([curve["instance_recall"] for curve in curves]).round(9))
            precision = np.mean([_at(recall, curve) for curve in curves], axis=0)
            table = pd.DataFrame({"instance_recall": recall, "precision": precision})
            tables.append(table.assign(place=place, model=model))
    columns = ["place", "model", "instance_recall", "precision"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def _at(recall: NDArray[np.float64], curve: pd.DataFrame) -> NDArray[np.float64]:
    """Precision of a curve at these recalls: that of its next higher one."""
    steps = np.searchsorted(curve["instance_recall"].to_numpy().round(9), recall)
    return curve["precision"].to_numpy()[steps.clip(max=len(curve) - 1)]


def read_defects(results_dir: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Read every defect as every model saw it, each with the first seed that finished.

    Raw scores of two models are not on one scale. What can be compared is how a model ranks a defect among the others.

    Args:
        results_dir: The folder of a benchmark.
        rows: Its rows.

    Returns:
        A row for each defect and model: ``place``, ``model``, ``seed``, ``image`` (path below the folder that all test
        images share, so that results of two machines meet), ``region`` (the same in all models that saw a defect at
        the same place, whatever the size of their masks) and its box as in ``instances.csv``, ``found``, ``rank`` (1 is
        the highest score of the job), ``of`` (defects of the job), ``right`` and ``bottom`` (ends of all defects of the
        image), ``image_path``, ``mask_path`` and ``map_path``.
    """
    tables = []
    seen: dict[tuple[Hashable, Hashable], pd.DataFrame] = {}
    for (place, model), jobs in _finished(rows).groupby(["place", "model"], sort=False):
        first = jobs.sort_values("seed").iloc[0]
        folder = results_dir / "jobs" / first["job"]
        if not all((folder / name).is_file() for name in ("instances.csv", "images.csv")):
            continue
        images = pd.read_csv(folder / "images.csv").drop_duplicates("image_path")
        defects = pd.read_csv(folder / "instances.csv").merge(images, left_on="image", right_on="image_path")
        if defects.empty:
            continue
        shared = os.path.commonpath([os.path.dirname(path) for path in images["image_path"]])  # noqa: PTH120
        defects["image"] = [os.path.relpath(path, shared) for path in defects["image_path"]]
        defects["map_path"] = [str(folder / name) for name in defects["map_file"]]
        defects["mask_path"] = defects["mask_path"].fillna("")
        for end, start, length in (("right", "left", "width"), ("bottom", "top", "height")):
            defects[end] = (defects[start] + defects[length]).groupby(defects["image"]).transform("max")
        defects["rank"] = defects["score_x"].rank(ascending=False, method="first").astype(int)
        for image, regions in defects.groupby("image"):
            known = seen.setdefault((place, image), regions)
            numbered = regions.assign(region=_numbers(regions, known))
            defects.loc[regions.index, "region"] = numbered["region"]
            seen[place, image] = pd.concat([known, numbered]).drop_duplicates("region")
        tables.append(defects.assign(place=place, model=model, seed=first["seed"], of=len(defects)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _numbers(regions: pd.DataFrame, known: pd.DataFrame) -> list[int]:
    """Number an image's regions as the known ones at the same places, and those that have no counterpart from there on.

    In masks of another size regions merge, vanish or come in another order.
    """
    distance = np.abs(_boxes(regions)[:, None] - _boxes(known)).max(axis=2)
    numbers, free = [], known["region"].max() + 1
    for index, nearest in enumerate(distance.argmin(axis=1)):
        is_same = distance[:, nearest].argmin() == index and distance[index, nearest] < SAME_PLACE
        numbers.append(known["region"].iloc[nearest] if is_same else free)
        free += not is_same
    return numbers


def _boxes(regions: pd.DataFrame) -> NDArray[np.float64]:
    """Left, top, width and height of each region, in shares of the extent of the image's defects."""
    boxes = regions[["left", "top", "width", "height"]].to_numpy(dtype=float)
    return boxes / regions[["right", "bottom", "right", "bottom"]].to_numpy(dtype=float)


def environments(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Machine, versions and revision, each with all its values."""
    for name in ENVIRONMENT:
        values = [value for value in rows[name].unique() if value]
        if values:
            yield name.replace("_", " " if name == "git_revision" else "-"), ", ".join(values)


def _finished(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "finished"]
