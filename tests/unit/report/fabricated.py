# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The folder of a benchmark that nobody ran, with figures that a test can choose."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from destseg_anomalib.report.results import METRICS

SIDE, MAP_SIDE, IMAGES = 96, 32, 6
COSTS = {"fit_seconds": 60, "test_seconds": 4, "train_images_per_second": 12.5, "peak_memory_mib": 900}
LATENCIES = {f"latency_{batch}_{what}_ms": 10.0 * batch for batch in (1, 32) for what in ("median", "p95")}
VERSIONS = {
    "anomalib": "2.7.0",
    "torch": "2.14",
    "destseg_anomalib": "0.1",
    "machine": "a machine",
    "git_revision": "0",
}
TRACEBACK = """Traceback (most recent call last):
  File "x.py", line 1, in fit
    raise RuntimeError
RuntimeError: <out of memory>
Given: nothing
"""


def make_results(
    root: Path,
    models: Sequence[str] = ("DeSTSeg", "Patchcore", "Newcomer"),
    categories: Sequence[str] = ("bottle", "cable"),
    seeds: Sequence[int] = (0, 1),
    failing: Sequence[str] = (),
    dataset: str = "MVTecAD",
) -> Path:
    """Write results of models, each a little worse and slower than the one before.

    A job is named model-category-seed; those in `failing` failed. Every figure of the first model and seed is 0.9 on
    the first category and 0.8 on the second; each further model has 0.1 less and each further seed 0.02 more.
    """
    results, rows = root / "results", []
    for category in categories:
        make_images(root / "images" / category)
    for place, category in enumerate(categories):
        for rank, model in enumerate(models):
            for seed in seeds:
                job = f"{model}-{category}-{seed}"
                figure = 0.9 - 0.1 * place - 0.1 * rank + 0.02 * seed
                row = {"job": job, "model": model, "dataset": dataset, "category": category, "seed": seed}
                data = {"class_path": dataset, "init_args": {"category": category, "root": str(root / "images")}}
                config = {"model": {"class_path": model}, "data": data, "seed": seed}
                folder = results / "jobs" / job
                if job in failing:
                    rows.append(row | {"status": "failed"} | VERSIONS)
                    write_job(folder, "failed", rows[-1], config, TRACEBACK)
                    continue
                costs = {name: value * (rank + 1) for name, value in (COSTS | LATENCIES).items()}
                rows.append(row | {"status": "finished"} | dict.fromkeys(METRICS, figure) | costs | VERSIONS)
                write_job(folder, "finished", rows[-1], config)
                write_details(folder, root / "images" / category, rank)
    columns = [*("job", "model", "dataset", "category", "seed", "status"), *METRICS, *COSTS, *LATENCIES, *VERSIONS]
    pd.DataFrame(rows, columns=columns).to_csv(results / "results.csv", index=False)
    return results


def make_images(folder: Path) -> None:
    """Write images with one dark disc each, the last with two, and their masks, twice as large as the maps."""
    rng = np.random.default_rng(0)
    (folder / "test" / "hole").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(IMAGES):
        image = rng.integers(120, 200, (SIDE, SIDE, 3), dtype=np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for y in (24, 72)[: 1 + (index == IMAGES - 1)]:
            cv2.circle(image, (20 + 9 * index, y), 8, (40, 40, 40), thickness=-1)
            cv2.circle(mask, (20 + 9 * index, y), 8, 255, thickness=-1)
        cv2.imwrite(str(folder / "test" / "hole" / f"{index}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), mask)


def write_job(
    folder: Path, status: str, row: dict[str, object], config: dict[str, object], traceback: str = ""
) -> None:
    folder.mkdir(parents=True)
    record = {"status": status, "config": config, "row": row, "traceback": traceback}
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")


def write_details(folder: Path, images: Path, rank: int) -> None:
    """Write instances, curve, images and maps of a job; a model of rank n misses the defects of the first n images."""
    (folder / "maps").mkdir()
    instances, table = [], []
    for index in range(IMAGES):
        path = str(images / "test" / "hole" / f"{index}.png")
        mask = images / "masks" / f"{index}.png"
        table.append((index, path, str(mask), 1, 0.5, f"maps/{index}.png"))
        reduced = cv2.resize(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), (2 * MAP_SIDE, 2 * MAP_SIDE))
        cv2.imwrite(str(folder / "maps" / f"{index}.png"), cv2.resize(reduced, (MAP_SIDE, MAP_SIDE)))
        _, _, boxes, _ = cv2.connectedComponentsWithStats((reduced > 127).astype(np.uint8))
        for region, (*box, area) in enumerate(boxes[1:], start=1):
            score = 0.1 * (index + region)
            instances.append((path, region, *box, area, score, index >= rank))
    names = ["image", "region", "left", "top", "width", "height", "area", "score", "found"]
    pd.DataFrame(instances, columns=names).to_csv(folder / "instances.csv", index=False)
    names = ["index", "image_path", "mask_path", "label", "score", "map_file"]
    pd.DataFrame(table, columns=names).to_csv(folder / "images.csv", index=False)
    recall = np.arange(len(instances), 0, -1) / len(instances)
    precision = np.maximum(1 - recall * (0.2 + 0.2 * rank), 0)
    pd.DataFrame({"instance_recall": recall, "precision": precision}).to_csv(folder / "curve.csv", index=False)
