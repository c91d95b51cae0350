# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Draw maps that look right and are not worth the same, and what a threshold makes of one of them.

python examples/explain_result.py [--out .]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from explain_iap import SIZE, bump, disc
from matplotlib.axes import Axes
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from destseg_anomalib.metrics import instance_average_precision, precision_at_instance_recall

# (row, column, radius): a large defect and three small ones.
DEFECTS = [(45, 45, 24), (30, 120, 9), (112, 105, 10), (118, 32, 7)]
SURFACE = 0.08 * torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def painted(narrowest: float = 0, offset: int = 0, faintest: float = 0.8) -> torch.Tensor:
    """Return a map (SIZE, SIZE) with a hill on every defect: a least radius, a shift, the height of the last hill."""
    heights = [0.9, 0.85, 0.8, faintest]
    spots = [(r + offset, c - offset, max(size, narrowest)) for r, c, size in DEFECTS]
    hills = [bump(*spot, height) for spot, height in zip(spots, heights, strict=True)]
    return torch.stack([*hills, SURFACE]).amax(dim=0)


MAPS = {
    "every defect, and only those": painted(),
    "every defect, coarsely": painted(narrowest=20, offset=4),
    "a reflection brighter than all": torch.maximum(painted(), bump(75, 92, 12, 1.0)),
    "the smallest is hardly there": painted(faintest=0.1),
}
MASK = torch.stack([disc(*defect) for defect in DEFECTS]).any(dim=0)


def outline(axes: Axes, anomaly_map: torch.Tensor, title: str) -> None:
    """Show a map with the outlines of the defects."""
    axes.imshow(anomaly_map, cmap="gray_r", vmin=0, vmax=1.6)  # no darker than an outline can be seen on
    axes.contour(MASK.float(), levels=[0.5], colors="black", linewidths=1.2, linestyles="--")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def figures(anomaly_map: torch.Tensor) -> dict[str, float]:
    """Pixel figures of one map, and the instance figures."""
    preds, target = anomaly_map[None], MASK[None]
    return {
        "pixel AUROC": float(binary_auroc(preds, target.int())),
        "pixel AP": float(binary_average_precision(preds, target.int())),
        "IAP": float(instance_average_precision(preds, target)),
        "IAP@90": float(precision_at_instance_recall(preds, target)),
    }


def draw_threshold(axes: Axes, anomaly_map: torch.Tensor, threshold: float, why: str) -> None:
    """Show what lies above a threshold, and which defects that finds."""
    above = anomaly_map >= threshold
    shares = [float(above[disc(*defect)].float().mean()) for defect in DEFECTS]
    precision = float((above & MASK).sum() / above.sum())
    outline(
        axes,
        above.float(),
        f"{why}: {threshold:.2f}\n{sum(s > 0.5 for s in shares)} of 4 found, precision {precision:.0%}",
    )
    for (row, column, size), share in zip(DEFECTS, shares, strict=True):
        verdict = "found" if share > 0.5 else "missed"
        style = {"facecolor": "white", "pad": 1, "linewidth": 0.5}
        axes.text(column, row - size - 6, f"{share:.0%} {verdict}", ha="center", va="bottom", fontsize=8, bbox=style)


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for looks.png and thresholds.png")
    folder = parser.parse_args().out
    looks, axes = plt.subplots(1, len(MAPS), figsize=(12, 3.7), layout="constrained")
    for axis, (title, anomaly_map) in zip(axes, MAPS.items(), strict=True):
        found = figures(anomaly_map)
        lines = [f"{name} {value:.3f}" for name, value in found.items()]
        outline(axis, anomaly_map, f"{title}\n{lines[0]}   {lines[1]}\n{lines[2]}   {lines[3]}")
        print(f"{title}: {', '.join(lines)}")
    looks.savefig(folder / "looks.png", dpi=80, bbox_inches="tight")

    faint = MAPS["the smallest is hardly there"]
    thresholds, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
    values = faint.unique()
    scores = torch.stack([2 * (MASK & (faint >= t)).sum() / (MASK.sum() + (faint >= t).sum()) for t in values[::50]])
    found = sorted(float(faint[disc(*defect)].quantile(0.5, interpolation="higher")) for defect in DEFECTS)
    draw_threshold(axes[0], faint, 0.62, "a careful one")
    draw_threshold(axes[1], faint, float(values[::50][scores.argmax()]), "the best F1 of all pixels")
    draw_threshold(axes[2], faint, found[0], "the one that finds all")
    thresholds.savefig(folder / "thresholds.png", dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
