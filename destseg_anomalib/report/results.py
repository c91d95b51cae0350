# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The folder of results: one folder a job, whose `result.json` appears whole or not at all, and one table."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

RESULT_FILE = "result.json"

METRICS = (
    "image_AUROC",
    "image_F1Score",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_AUPRO",
    "pixel_F1Score",
    "IAP",
    "IAP@90",
)
"""The figures that every model has, in [0, 1]."""

COSTS = (
    *("fit_seconds", "test_seconds", "train_images_per_second"),
    *("latency_1_median_ms", "latency_1_p95_ms", "latency_32_median_ms", "latency_32_p95_ms", "peak_memory_mib"),
)
"""What a job took."""

ENVIRONMENT = ("anomalib", "torch", "destseg_anomalib", "machine", "git_revision")
"""What it ran on."""

COLUMNS = ("job", "model", "dataset", "category", "seed", "status", *METRICS, *COSTS, *ENVIRONMENT)
"""Columns of the table, in their order; further figures of the evaluator follow the common ones."""


def job_name(config: Mapping[str, Any]) -> str:
    """Name a job by what it is, and by a hash of its whole configuration.

    Args:
        config: Configuration of the job, as plain as JSON.

    Returns:
        A name that is fit for a folder. Equal configurations have equal names.

    Example:
        >>> data = {"class_path": "MVTecAD", "init_args": {"category": "bottle"}}
        >>> job_name({"model": {"class_path": "DeSTSeg"}, "data": data, "seed": 0})
        'DeSTSeg-bottle-seed0-30abee19'
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    identity = job_identity(config)
    parts = (identity["model"], identity["category"] or identity["dataset"], f"seed{identity['seed']}", digest[:8])
    return "-".join(re.sub(r"[^\w.-]+", "_", str(part)) for part in parts)


def job_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say which model is measured on what.

    Args:
        config: Configuration of the job.

    Returns:
        `model`, the `name` of its entry or else its class; `dataset`, the class of the data module; `category`, or the
        `name` of data that know no categories; `seed`.

    Example:
        >>> data = {"class_path": "anomalib.data.Folder", "init_args": {"name": "screws"}}
        >>> job_identity({"model": {"class_path": "Stfpm", "name": "Stfpm-100"}, "data": data, "seed": 3})
        {'model': 'Stfpm-100', 'dataset': 'Folder', 'category': 'screws', 'seed': 3}
    """
    model, data = config["model"], config["data"]
    arguments = data.get("init_args", {})
    return {
        "model": model.get("name") or model["class_path"].rpartition(".")[2],
        "dataset": data["class_path"].rpartition(".")[2],
        "category": arguments.get("category", arguments.get("name", "")),
        "seed": config["seed"],
    }


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write what became of a job, after everything else of it.

    Args:
        folder: The job's folder; made if missing.
        result: `status`, `config`, `row` and perhaps `traceback`, as plain as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RESULT_FILE, json.dumps(result, indent=1))


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read what became of a job.

    Args:
        folder: The job's folder.

    Returns:
        Its result, None if there is none yet.

    Raises:
        ValueError: If the file is no JSON.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        msg = f"{path} cannot be read ({error}): delete it and run the benchmark again, which repeats this job alone."
        raise ValueError(msg) from error


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Write the rows of all jobs, as far as there are any.

    Args:
        path: CSV file, replaced at once.
        rows: The rows, which may differ in their columns.

    Returns:
        The table.
    """
    table = pd.DataFrame(list(rows))
    further = [column for column in table.columns if column not in COLUMNS]
    end_of_metrics = COLUMNS.index(METRICS[-1]) + 1
    table = table.reindex(columns=[*COLUMNS[:end_of_metrics], *further, *COLUMNS[end_of_metrics:]])
    write_whole(path, table.to_csv(index=False))
    return table


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, meets the old one or the new one.

    Args:
        path: The file; its folder is made if missing.
        text: What it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(text)
    aside.replace(path)
