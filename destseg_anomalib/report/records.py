# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a benchmark left on disk, as tables."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from destseg_anomalib.report.results import COSTS, ENVIRONMENT, METRICS, read_result

KEYS = ("job", "model", "dataset", "category", "status")


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
        The rows in the order of the file, with a column ``place`` that names data set and category as briefly as the
        benchmark allows. Figures are floats in [0, 1], NaN where a job failed or left one undefined.

    Raises:
        ValueError: If the file is missing, unreadable, empty or lacks columns.
    """
    file = results_dir / "results.csv"
    if not file.is_file():
        msg = f"There is no results.csv in {results_dir}: give the folder into which `anomalib benchmark` wrote."
        raise ValueError(msg)
    try:
        rows = pd.read_csv(file, dtype=dict.fromkeys((*KEYS, *ENVIRONMENT), "string"))
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
    texts = [*KEYS, *ENVIRONMENT]
    rows[texts] = rows[texts].fillna("")
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
        files = [file for job in jobs["job"] if (file := results_dir / "jobs" / job / "curve.csv").is_file()]
        curves = [pd.read_csv(file).set_index("instance_recall")["precision"] for file in files]
        # Seeds share a test set and hence their recalls; if one had other images, its curve is not averaged.
        curves = [curve for curve in curves if len(curve) == len(curves[0])]
        if curves and len(curves[0]):
            mean = pd.concat(curves).groupby(level=0).mean().reset_index()
            tables.append(mean.assign(place=place, model=model))
    columns = ["place", "model", "instance_recall", "precision"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def read_defects(results_dir: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Read every defect as every model saw it, each with the first seed that finished.

    Raw scores of two models are not on one scale. What can be compared is how a model ranks a defect among the others.

    Args:
        results_dir: The folder of a benchmark.
        rows: Its rows.

    Returns:
        A row for each defect and model: ``place``, ``model``, ``seed``, ``image`` (path below the folder that all test
        images share, so that results of two machines meet), ``region`` and its box as in ``instances.csv``, ``found``,
        ``rank`` (1 is the highest score of the job), ``of`` (defects of the job), ``right`` and ``bottom`` (ends of
        all defects of the image), ``image_path``, ``mask_path`` and ``map_path``.
    """
    tables = []
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
        tables.append(defects.assign(place=place, model=model, seed=first["seed"], of=len(defects)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def environments(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Machine, versions and revision, each with all its values."""
    for name in ENVIRONMENT:
        values = [value for value in rows[name].unique() if value]
        if values:
            yield name.replace("_", " " if name == "git_revision" else "-"), ", ".join(values)


def _finished(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "finished"]
