# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Time and memory of the pixel metrics: ours beside a plain loop, anomalib's metrics and ADEval's, in one run.

    python examples/benchmark_metrics.py --sets 83x256 167x256

Each side runs in a process of its own and reads the set batch by batch, so that its peak memory is its own. All sides
but the plain loop take turns for five rounds, and the table has the median time of each and its largest memory: a slow
moment of the machine then hits one round, not one side. The table in the metrics' README comes from
``--sets 83x256 167x256 1000x256 100x1024`` and takes forty minutes, twelve of them for the plain loop;
``--sides "our six" "our six, 18 bits" ADEval`` measures those alone in three. ADEval takes part where it is installed:
``pip install --no-deps adeval==1.1.0``, since the opencv-python that it asks for would overwrite anomalib's OpenCV.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from anomalib.metrics import AUPR, AUPRO, AUROC, AnomalibMetric, F1Max
from benchmark_synthesis import machine

from destseg_anomalib.metrics import IAP
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFiguresMetric

Figures = dict[str, float]


class TestSet:
    """Smooth maps and blob masks like those of a trained detector, in files: 70 % of the images have 1 to 3 defects."""

    def __init__(self, folder: Path, images: int, size: int) -> None:
        self.maps, self.masks = folder / f"maps_{images}_{size}", folder / f"masks_{images}_{size}"
        self.images, self.size = images, size

    def make(self) -> None:
        """Write the files."""
        rng = np.random.default_rng(0)
        size = self.size
        with self.maps.open("wb") as maps, self.masks.open("wb") as masks:
            for _ in range(self.images):
                noise = cv2.resize(rng.standard_normal((size // 8, size // 8), dtype=np.float32), (size, size))
                mask = np.zeros((size, size), np.uint8)
                for _ in range(rng.integers(1, 4) if rng.random() < 0.7 else 0):
                    centre = rng.integers(0, size, 2).tolist()
                    axes = (size * rng.uniform(0.02, 0.12, 2)).astype(int).tolist()
                    cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
                found = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), size / 64) * rng.uniform(1, 6)
                maps.write((1 / (1 + np.exp(3 - noise - found))).astype(np.float32).tobytes())
                masks.write(mask.tobytes())

    def batches(self) -> Iterator[SimpleNamespace]:
        """Map the set into memory in batches of half a million pixels, since reading is no metric's work."""
        step = max(1, 2**19 // self.size**2)
        for start in range(0, self.images, step):
            shape, offset = (min(step, self.images - start), self.size, self.size), start * self.size**2
            preds = np.memmap(self.maps, np.float32, "c", 4 * offset, shape)  # "c": PyTorch wants it writable
            target = np.memmap(self.masks, np.bool_, "c", offset, shape)
            yield SimpleNamespace(anomaly_map=torch.from_numpy(preds), gt_mask=torch.from_numpy(target))


def loop_iap(preds: torch.Tensor, target: torch.Tensor) -> Figures:
    """IAP and IAP@90 as the paper's code defines them: for each region, compare every pixel of the set with its score.

    Correct for positive scores only: at others, the product of map and mask reaches the score in the background, too.
    """
    scores = []
    for anomaly_map, mask in zip(preds, target, strict=True):
        regions, labels = cv2.connectedComponents(mask.numpy().astype(np.uint8), connectivity=8)
        for region in range(1, regions):
            inside = anomaly_map[torch.from_numpy(labels == region)].sort(descending=True).values
            scores.append(inside[min(len(inside) // 2, len(inside) - 1)])
    precision = [0.0]
    for score in sorted(scores):
        true = (preds * target >= score).sum()
        precision.append(max(precision[-1], float(true / (preds >= score).sum())))
    return {"IAP": sum(precision) / len(scores), "IAP@90": precision[1 + min(len(scores) // 10, len(scores) - 1)]}


def run_loop(data: TestSet) -> Figures:
    """The plain loop, over a set that is in memory as the definition wants it."""
    preds = torch.empty(data.images, data.size, data.size)
    target = torch.empty_like(preds)
    start = 0
    for batch in data.batches():
        part = slice(start, start := start + len(batch.gt_mask))
        preds[part], target[part] = batch.anomaly_map, batch.gt_mask
    return loop_iap(preds, target)


def run_anomalib(metric: type[AnomalibMetric], data: TestSet) -> Figures:
    """One of anomalib's pixel metrics."""
    instance = metric(fields=["anomaly_map", "gt_mask"])
    for batch in data.batches():
        instance.update(batch)
    return {metric.__name__: float(instance.compute())}


def run_iap(data: TestSet) -> Figures:
    """Our IAP alone."""
    metric = IAP()
    for batch in data.batches():
        metric.update(batch)
    return {"IAP": float(metric.compute())}


def run_figures(data: TestSet, bits: int | None = None) -> Figures:
    """Our six figures from one store."""
    metric = PixelFiguresMetric(bits=bits)
    for batch in data.batches():
        metric.update(batch.anomaly_map, batch.gt_mask)
    figures = metric.compute()
    return {
        "AUROC": figures.auroc,
        "AUPR": figures.average_precision,
        "AUPRO": figures.per_region_overlap,
        "F1Max": figures.best_f1,
        "IAP": mean_precision(figures.curve.precision),
        "IAP@90": precision_at(figures.curve.precision, 0.9),
    }


def run_adeval(data: TestSet) -> Figures:
    """ADEval's three pixel figures, from histograms of 1,000 bins between bounds that it must be told beforehand."""
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # noqa: NPY201 - its name before NumPy 2.4, by which ADEval 1.1.0 calls it
    from adeval import EvalAccumulator  # noqa: PLC0415 - not a dependency

    metric = EvalAccumulator(0.0, 1.0)
    for batch in data.batches():
        metric.add_anomap_batch(batch.anomaly_map.numpy(), batch.gt_mask.numpy().view(np.uint8))
    figures = metric.summary()
    return {"AUROC": figures["p_auroc"], "AUPR": figures["p_aupr"], "AUPRO": figures["p_aupro"]}


SIDES: dict[str, Callable[[TestSet], Figures]] = {
    "plain loop": run_loop,
    "our IAP": run_iap,
    "anomalib AUROC": lambda data: run_anomalib(AUROC, data),
    "anomalib AUPR": lambda data: run_anomalib(AUPR, data),
    "anomalib AUPRO": lambda data: run_anomalib(AUPRO, data),
    "anomalib F1Max": lambda data: run_anomalib(F1Max, data),
    "our six": run_figures,
    "our six, 18 bits": lambda data: run_figures(data, bits=18),
    "ADEval": run_adeval,
}
ROUNDS = 5
PAIRS = [
    ("our IAP", "plain loop"),
    ("our six", "anomalib, sum of four"),
    ("our six", "ADEval"),
    ("our six, 18 bits", "anomalib, sum of four"),
    ("our six, 18 bits", "our six"),
    ("our six, 18 bits", "ADEval"),
]


def measure(side: str, folder: Path, images: int, size: int) -> None:
    """Run one side in this process and print what it took as JSON."""
    warm = TestSet(folder, 2, 64)
    warm.make()
    SIDES[side](warm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    figures = SIDES[side](TestSet(folder, images, size))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    print(json.dumps({"seconds": seconds, "bytes": peak * 1024, "figures": figures}))


def measure_apart(side: str, folder: Path, images: int, size: int) -> dict:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--sets", f"{images}x{size}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return json.loads(output.splitlines()[-1])


def typical(runs: list[dict]) -> dict:
    """The median time and the largest memory of several runs of one side."""
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "bytes": max(run["bytes"] for run in runs),
        "figures": runs[0]["figures"],
    }


def compare(images: int, size: int, folder: Path, sides: Sequence[str]) -> list[dict[str, object]]:
    """Measure sides on one set: the plain loop once, since it takes minutes, the others in turns."""
    TestSet(folder, images, size).make()
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for turn in range(ROUNDS):
        for side in sides:
            if turn == 0 or side != "plain loop":
                runs[side].append(measure_apart(side, folder, images, size))
    results = {side: typical(of_side) for side, of_side in runs.items()}
    theirs = [result for side, result in results.items() if side.startswith("anomalib")]
    if len(theirs) == 4:
        results["anomalib, sum of four"] = {
            "seconds": sum(result["seconds"] for result in theirs),
            "bytes": max(result["bytes"] for result in theirs),
            "figures": {name: value for result in theirs for name, value in result["figures"].items()},
        }
    pairs = [pair for pair in PAIRS if results.keys() >= set(pair)]
    return [row(f"{images}x{size}", images * size**2, ours, other, results) for ours, other in pairs]


def row(name: str, pixels: int, ours: str, other: str, results: dict[str, dict]) -> dict[str, object]:
    """One line of the table: ours beside another side."""
    a, b = results[ours], results[other]
    shared = a["figures"].keys() & b["figures"].keys()
    return {
        "set": name,
        "ours": ours,
        "s": f"{a['seconds']:.2f}",
        "MB": f"{a['bytes'] / 1e6:.0f}",
        "B/pixel": f"{a['bytes'] / pixels:.2f}",
        "beside": other,
        "its s": f"{b['seconds']:.2f}",
        "its MB": f"{b['bytes'] / 1e6:.0f}",
        "faster": f"{b['seconds'] / a['seconds']:.1f}x",
        "difference": f"{max(abs(a['figures'][key] - b['figures'][key]) for key in shared):.0e}",
    }


def main() -> None:
    """Print the table, or with ``--side`` measure one of its cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["83x256", "167x256"], metavar="IMAGESxSIZE")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help=", ".join(SIDES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [tuple(map(int, name.split("x"))) for name in arguments.sets]
    if arguments.side:
        measure(arguments.side, arguments.folder, *sizes[0])
        return
    if "ADEval" in arguments.sides and not importlib.util.find_spec("adeval"):
        print("ADEval is not installed, so it is left out; `pip install --no-deps adeval==1.1.0` adds it.")
        arguments.sides.remove("ADEval")
    print(f"{machine()}\n")
    rows = []
    for images, size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(images, size, Path(folder), arguments.sides)
    if not rows:
        parser.error("None of these sides stands beside another in the table; name both sides of a row.")
    for cells in (rows[0].keys(), ["---"] * len(rows[0]), *(line.values() for line in rows)):
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
