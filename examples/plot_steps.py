# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Draw how long to train: IAP and IAP@90 over the steps of phase 2, from what `averaged_weights.py --curve` measured.

python examples/plot_steps.py [--measured rows.csv …] [--out folder]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

MEASURED = Path(__file__).parent / "measured"
RUN = ["set", "model", "training", "student_steps", "segmentation_steps"]
# Name, kind of weights, weight of the distances, colour and marker.
MAPS = [
    ("last step", "last step", 0.0, "tab:gray", "x"),
    ("averaged", "averaged", 0.0, "tab:blue", "o"),
    ("averaged, distance_weight 0.5", "averaged", 0.5, "tab:orange", "^"),
]


def on_the_way(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the trainings that were looked at before their last tenth."""
    return rows[rows.groupby([*RUN, "seed"]).step.transform("min") < 0.9 * rows.segmentation_steps]


def draw(axes: Axes, rows: pd.DataFrame, figure: str) -> None:
    """Draw a figure of one training, or the mean of its seeds, over the steps."""
    for label, kind, witness, colour, marker in MAPS:
        line = rows[(rows["map"] == kind) & (rows.witness == witness)].groupby("step")[figure].mean()
        axes.plot(line.index, line, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
    axes.set(ylabel=figure)
    axes.grid(visible=True, alpha=0.3)


def picture(rows: pd.DataFrame, path: Path) -> None:
    """Draw a column for each training, a row for each figure."""
    trainings = list(rows.groupby(RUN, sort=False))
    figure, axes = plt.subplots(
        2, len(trainings), figsize=(2.9 * len(trainings), 5), squeeze=False, sharex="col", layout="constrained"
    )
    for column, ((name, _, _, student, segmentation), of_training) in enumerate(trainings):
        seeds = of_training.seed.nunique()
        axes[0, column].set_title(
            f"{name}\n{student} + {segmentation} steps, {seeds} seed{'s' * (seeds > 1)}", fontsize=9
        )
        for row, name_of_figure in enumerate(("IAP", "IAP@90")):
            draw(axes[row, column], of_training, name_of_figure)
        axes[1, column].set_xlabel("steps of phase 2")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Draw a picture for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    files = [MEASURED / "averaged_weights_gpu.csv", MEASURED / "averaged_weights.csv"]
    parser.add_argument("--measured", nargs="+", type=Path, default=files, help="files of averaged_weights.py")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the pictures")
    arguments = parser.parse_args()
    rows = on_the_way(pd.concat([pd.read_csv(path) for path in arguments.measured]))
    for model, of_model in rows[rows.training == "plain"].groupby("model"):
        path = arguments.out / f"steps_{str(model).lower()}.png"
        picture(of_model, path)
        print(f"{model}: {path}")


if __name__ == "__main__":
    main()
