# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""One page that holds a whole benchmark: no other file, and no request to anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd

from destseg_anomalib.report.charts import Chart, cost_chart, curve_chart, library
from destseg_anomalib.report.gallery import GROUPS, make_gallery
from destseg_anomalib.report.records import Failure, environments, read_curves, read_defects
from destseg_anomalib.report.tables import AVERAGE, DASH, LAYOUTS, grids, notes

# Columns of the sortable table: what this package is about comes first, where a phone shows it.
FIGURE_NAMES = {
    "IAP": "IAP",
    "IAP@90": "IAP@90",
    "pixel_AP": "pixel AP",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "pixel AUPRO",
    "image_AUROC": "image AUROC",
    "image_F1Score": "image F1",
    "pixel_F1Score": "pixel F1",
}
COST_NAMES = {
    "latency_1_median_ms": "1 image, ms",
    "latency_1_p95_ms": "1 image, p95, ms",
    "latency_32_median_ms": "32 images, ms",
    "latency_32_p95_ms": "32 images, p95, ms",
    "fit_seconds": "training, s",
    "train_images_per_second": "training, images/s",
    "test_seconds": "test, s",
    "peak_memory_mib": "peak memory, MiB",
}
COLUMNS = FIGURE_NAMES | COST_NAMES
# Speed against IAP: the title of each chart, its cost and what that is called.
COST_CHARTS = (
    ("Time for one image against IAP", "latency_1_median_ms", "median latency at batch 1, ms"),
    ("Training time against IAP", "fit_seconds", "training time, s"),
)


class Cell(NamedTuple):
    """A cell of the sortable table: what it shows, and the number by which it sorts, empty for a text or a gap."""

    text: str
    value: str = ""


class Row(NamedTuple):
    """A row of the sortable table: model, category and cells."""

    model: str
    place: str
    is_average: bool
    cells: list[Cell]


def render(
    results_dir: Path,
    rows: pd.DataFrame,
    summary: pd.DataFrame,
    compared: pd.DataFrame,
    failures: Sequence[Failure],
) -> str:
    """Write the page.

    Args:
        results_dir: The folder of the benchmark.
        rows: What :func:`~destseg_anomalib.report.records.read_rows` returns.
        summary: What :func:`~destseg_anomalib.report.tables.summarise` returns.
        compared: What :func:`~destseg_anomalib.report.tables.compare` returns.
        failures: What :func:`~destseg_anomalib.report.records.read_failures` returns.

    Returns:
        HTML with everything inside.
    """
    models = list(rows["model"].unique())
    curves = read_curves(results_dir, rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        name=results_dir.resolve().name,
        models=models,
        jobs=len(rows),
        seeds=rows["seed"].nunique(),
        environments=list(environments(rows)),
        failures=failures,
        columns=[*COLUMNS.values()],
        higher_is_better=[*FIGURE_NAMES.values(), COST_NAMES["train_images_per_second"]],
        rows=sortable_rows(summary, models),
        curves=[curve_chart(place, curves, summary, models) for place in curves["place"].unique()],
        costs=cost_charts(summary, rows, models),
        library=library(),
        gallery=make_gallery(read_defects(results_dir, rows)),
        groups=GROUPS,
        tables=[(layout.title, grids(layout, compared)) for layout in LAYOUTS],
        notes=notes(compared),
        differences=rows.loc[rows["configuration"] != "", ["model", "configuration"]].drop_duplicates().to_numpy(),
        several_machines=summary.duplicated(["place", "model", "figure"]).any(),
    )


def sortable_rows(summary: pd.DataFrame, models: Sequence[str]) -> list[Row]:
    """Rows of the sortable table, averages first and the highest IAP first within a category.

    Args:
        summary: What :func:`~destseg_anomalib.report.tables.summarise` returns.
        models: All models, in the order in which equal ones appear.

    Returns:
        A row for each category and model with figures.
    """
    result = []
    for (place, category), here in summary.groupby(["place", "category"], sort=False):
        for model in models:
            figures = here[here["model"] == model].set_index("figure")
            if figures.empty:
                continue
            cells = [_cell(figures, name) for name in COLUMNS]
            result.append(Row(model, str(place), category == AVERAGE, cells))
    places = list(summary["place"].unique())
    iap = list(COLUMNS).index("IAP")
    result.sort(key=lambda row: (not row.is_average, places.index(row.place), -float(row.cells[iap].value or 0)))
    return result


def cost_charts(summary: pd.DataFrame, rows: pd.DataFrame, models: Sequence[str]) -> list[Chart]:
    """Charts of costs against IAP on each data set, each the mean over the categories that a model finished.

    Args:
        summary: What :func:`~destseg_anomalib.report.tables.summarise` returns.
        rows: The rows of ``results.csv``; their categories are what a model should have finished.
        models: All models, in the order of their styles.

    Returns:
        The charts for which there are numbers.
    """
    several = rows["dataset"].nunique() > 1
    charts = []
    for dataset, here in summary[summary["category"] != AVERAGE].groupby("dataset", sort=False):
        places = rows.loc[rows["dataset"] == dataset, "place"].nunique()
        iap = here[here["figure"] == "IAP"].set_index(["model", "place"])["mean"].rename("iap")
        for title, cost, unit in COST_CHARTS:
            positive = here[(here["figure"] == cost) & (here["mean"] > 0)]  # a logarithm needs it
            measured = positive.join(iap, on=["model", "place"], how="inner")
            if measured.empty:
                continue
            groups = measured.groupby(["model", "machine"], sort=False)
            points = groups.agg(cost=("mean", "mean"), iap=("iap", "mean"), size=("iap", "size")).reset_index()
            points = points.sort_values("model", key=lambda names: names.map(list(models).index), kind="stable")
            share = " (" + points["size"].astype(str) + f" of {places})"
            machine = " on " + points["machine"] if points["machine"].nunique() > 1 else ""
            points["label"] = points["model"] + share.where(points["size"] < places, "") + machine
            charts.append(cost_chart(f"{title}, {dataset}" if several else title, unit, points, models))
    return charts


def _cell(figures: pd.DataFrame, name: str) -> Cell:
    if name not in figures.index:
        return Cell(DASH)
    texts = []
    for mean, std in figures.loc[[name], ["mean", "std"]].to_numpy(dtype=float):  # of a cost, one for each machine
        digits = 1 if name in FIGURE_NAMES or mean < 100 else 0
        texts.append(f"{mean:.{digits}f}" if pd.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}")
    return Cell(" / ".join(texts), f"{figures.loc[[name], 'mean'].iloc[0]:.6g}")
