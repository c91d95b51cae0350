# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Draw what IAP counts: four defects on a made-up anomaly map, and the precision at which each of them is found.

python examples/explain_iap.py [--out iap.png]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from anomalib.data import ImageBatch
from matplotlib.axes import Axes

from destseg_anomalib.metrics import IAP

# (row, column, radius of the defect, height of the map on it): a large one, two small ones, one that is hardly seen.
DEFECTS = [(40, 42, 24, 0.95), (30, 120, 8, 0.8), (110, 110, 10, 0.7), (118, 35, 7, 0.3)]
FALSE_ALARMS = [(75, 130, 9, 0.75), (90, 70, 6, 0.5)]
SIZE = 150


def disc(row: int, column: int, radius: float) -> torch.Tensor:
    """Return a boolean disc (SIZE, SIZE)."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def bump(row: int, column: int, radius: float, height: float) -> torch.Tensor:
    """Return a smooth hill (SIZE, SIZE) that falls to half of its height at the radius."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return height * torch.exp2(-((rows - row) ** 2 + (columns - column) ** 2) / radius**2)


def draw_threshold(axes: Axes, anomaly_map: torch.Tensor, mask: torch.Tensor, threshold: float) -> None:
    """Show which defects are found at a threshold: those of which more than half lies above it."""
    axes.imshow(anomaly_map, cmap="gray_r", vmin=0, vmax=1)
    axes.contour(anomaly_map, levels=[threshold], colors="tab:blue", linewidths=1.5)
    axes.contour(mask, levels=[0.5], colors="tab:red", linewidths=1.5, linestyles="--")
    above = anomaly_map >= threshold
    precision = float((above & mask.bool()).sum() / above.sum())
    found = 0
    for row, column, radius, _ in DEFECTS:
        share = float(above[disc(row, column, radius)].float().mean())
        found += share > 0.5
        axes.text(
            column,
            row,
            f"{share:.0%}",
            ha="center",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 1},
        )
    axes.set_title(
        f"threshold {threshold}: {found} of {len(DEFECTS)} found\n{precision:.0%} of the marked pixels are right"
    )
    axes.set_axis_off()


def main() -> None:
    """Draw three thresholds and the curve that they are points of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("iap.png"))
    out = parser.parse_args().out
    anomaly_map = torch.stack([bump(*spot) for spot in DEFECTS + FALSE_ALARMS]).amax(dim=0)
    mask = torch.stack([disc(*spot[:3]) for spot in DEFECTS]).any(dim=0)

    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    for axis, threshold in zip(axes[:2], (0.6, 0.2), strict=True):
        draw_threshold(axis, anomaly_map, mask.float(), threshold)
    metric = IAP()
    batch = ImageBatch(image=torch.zeros(1, 3, SIZE, SIZE), anomaly_map=anomaly_map[None], gt_mask=mask[None])
    metric.update(batch)
    metric.plot(ax=axes[2])
    figure.savefig(out, dpi=80)
    print(f"IAP {metric.compute():.3f}; picture in {out}")


if __name__ == "__main__":
    main()
