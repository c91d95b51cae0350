# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The papers' tables: mean and standard deviation over seeds, beside the published figures."""

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from destseg_anomalib.report.configurations import UNKNOWN
from destseg_anomalib.report.results import COSTS, METRICS

AVERAGE = "average"
DASH = "—"  # where there is no figure
# Our figures and models by the names that `published.csv` gives them.
PUBLISHED_FIGURES = {
    "image_AUROC": "image_auroc",
    "pixel_AUROC": "pixel_auroc",
    "pixel_AP": "pixel_ap",
    "pixel_AUPRO": "pro",
    "IAP": "iap",
    "IAP@90": "iap@90",
}
PUBLISHED_METHODS = {
    "destseg": "DeSTSeg",
    "pfadseg": "PFADSeg",
    "patchcore": "PatchCore",
    "draem": "DRAEM",
    "stfpm": "STPM",
    "dsr": "DSR",
}
MVTEC_AD = {"mvtec", "mvtecad", "mvtec_ad"}
ROUNDING = 0.05  # published figures have one decimal, in percent


class Layout(NamedTuple):
    """What one of the papers' tables shows.

    Attributes:
        name: Name of its files.
        title: Its heading.
        figures: Columns of ``results.csv``.
        averages: Whether it shows averages over categories only.
    """

    name: str
    title: str
    figures: tuple[str, ...]
    averages: bool = False


# Numbers of the DeSTSeg paper (arXiv 2211.11317); its supplement (Tables S4 to S6) goes into categories.
LAYOUTS = (
    Layout("table_1_image", "Table 1: image AUROC", ("image_AUROC",), averages=True),
    Layout("table_2_pixel", "Table 2: pixel AUROC and AP", ("pixel_AUROC", "pixel_AP")),
    Layout("table_3_instance", "Table 3: IAP and IAP@90", ("IAP", "IAP@90")),
    Layout("supplement_image", "Supplement: image AUROC of each category", ("image_AUROC",)),
    Layout("supplement_aupro", "Supplement: AUPRO of each category", ("pixel_AUPRO",)),
)


class Grid(NamedTuple):
    """Text of one table: a heading, the names of the columns, and rows whose first cell is a category."""

    heading: str
    columns: list[str]
    rows: list[list[str]]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of every figure and cost, with averages over the categories of a data set.

    The average of a seed counts only if all categories finished with it: an average over fewer would not be of the
    same thing.

    Args:
        rows: What :func:`~destseg_anomalib.report.records.read_rows` returns.

    Returns:
        ``dataset``, ``category``, ``place``, ``model``, ``method``, ``configuration``, ``machine`` (processor and
        threads on which a cost was measured, empty for a figure), ``figure``, ``mean``, ``std`` (with n - 1; NaN with
        one seed) and ``seeds``. Figures are in percent, costs in their own units.
    """
    names = ["dataset", "category", "place", "model", "method", "configuration", "machine"]
    keys = [*names, "figure"]
    finished = rows[rows["status"] == "finished"]
    long = finished.melt([*names, "seed"], [*METRICS, *COSTS], "figure").dropna()
    is_figure = long["figure"].isin(METRICS)
    long["value"] = long["value"].where(~is_figure, 100 * long["value"])
    # Time is comparable on machines of one kind, whatever they are called. Figures are the same on all.
    long["machine"] = long["machine"].str.replace(r"^[^:]*: ", "", regex=True).mask(is_figure, "")
    wanted = rows.groupby("dataset")["category"].nunique()
    # Two jobs that differ in neither model, category nor seed are one measurement, and not two seeds.
    means = long.groupby([*keys, "seed"], sort=False, as_index=False)["value"].mean()
    over_categories = [key for key in (*keys, "seed") if key not in {"category", "place"}]
    averages = means.groupby(over_categories, sort=False, as_index=False)["value"].agg(["mean", "size"])
    complete = averages["dataset"].map(wanted)
    averages = averages[(averages["size"] == complete) & (complete > 1)].rename(columns={"mean": "value"})
    averages["category"] = AVERAGE
    averages["place"] = AVERAGE
    if rows["dataset"].nunique() > 1:
        averages["place"] = averages["dataset"] + " / " + AVERAGE
    everything = pd.concat([means, averages[[*keys, "seed", "value"]]]) if len(averages) else means
    summary = everything.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    return summary.rename(columns={"count": "seeds"})


def compare(summary: pd.DataFrame) -> pd.DataFrame:
    """Put the published figures beside ours, for MVTec AD.

    Over fewer categories than the papers' fifteen, our average stands beside the mean of the published figures of the
    same categories.

    Args:
        summary: What :func:`summarise` returns.

    Returns:
        The rows of the figures that the papers have, with ``published``, ``published_std``, ``source`` and
        ``deviation``: ``above`` or ``below`` where the published figure lies outside our mean ± 2 standard deviations
        by more than its own rounding, and an empty text elsewhere.
    """
    ours = summary[summary["figure"].isin(PUBLISHED_FIGURES)].copy()
    ours["metric"] = ours["figure"].map(PUBLISHED_FIGURES)
    ours["paper"] = ours["method"].str.lower().map(PUBLISHED_METHODS)
    file = Path(__file__).with_name("published.csv")
    published = pd.read_csv(file).rename(columns={"mean": "published", "std": "published_std", "method": "paper"})
    # Other data sets may have categories of the same names. What stands in brackets is where the images lie.
    is_mvtec = ours["dataset"].str.lower().str.replace(r" \(.*", "", regex=True).isin(MVTEC_AD)
    papers = [
        _of_categories(published, set(here["category"]) - {AVERAGE}).assign(dataset=dataset)
        for dataset, here in ours[is_mvtec].groupby("dataset")
    ]
    beside = pd.concat([published[:0].assign(dataset=""), *papers])
    both = ours.merge(beside, "left", ["dataset", "paper", "metric", "category"])
    distance = both["mean"] - both["published"]
    outside = distance.abs() > 2 * both["std"] + ROUNDING  # never with one seed, whose deviation is NaN
    both["deviation"] = ""
    both.loc[outside & (distance > 0), "deviation"] = "above"
    both.loc[outside & (distance < 0), "deviation"] = "below"
    return both.drop(columns=["metric", "paper"])


def _of_categories(published: pd.DataFrame, categories: set[str]) -> pd.DataFrame:
    """Published figures of these categories and, as their average, that of the same ones."""
    of_categories = published[published["category"] != AVERAGE]
    if categories.issuperset(of_categories["category"]):
        return published
    some = of_categories[of_categories["category"].isin(categories)]
    means = some.groupby(["source", "paper", "metric"], as_index=False)["published"].agg(["mean", "size"])
    means = means[means["size"] == len(categories)].rename(columns={"mean": "published"})
    return pd.concat([of_categories, means.drop(columns="size").assign(category=AVERAGE)])


def select(layout: Layout, compared: pd.DataFrame) -> pd.DataFrame:
    """Take the rows that one of the papers' tables shows."""
    rows = compared[compared["figure"].isin(layout.figures)]
    if layout.averages:
        has_average = rows["dataset"].isin(rows.loc[rows["category"] == AVERAGE, "dataset"])
        rows = rows[~has_average | (rows["category"] == AVERAGE)]
    # Averages close the rows of their data set.
    order = {name: index for index, name in enumerate(rows["dataset"].unique())}
    keys = [rows["dataset"].map(order), rows["category"] == AVERAGE]
    return rows.assign(dataset_order=keys[0], last=keys[1]).sort_values(["dataset_order", "last"], kind="stable")


def grids(layout: Layout, compared: pd.DataFrame) -> list[Grid]:
    """Write a table of the papers as text, one grid a figure: a row a category, ours and the published a model.

    Args:
        layout: Which table.
        compared: What :func:`compare` returns.

    Returns:
        Grids in the order of the figures.
    """
    selected = select(layout, compared)
    result = []
    for figure in layout.figures:
        rows = selected[selected["figure"] == figure].set_index(["place", "model"])
        published = set(rows.index[rows["published"].notna()].get_level_values("model"))
        columns, table = [], {place: [place] for place in rows.index.get_level_values("place").unique()}
        for model in compared["model"].unique():
            columns += [model, f"{model}, paper"] if model in published else [model]
            for place, cells in table.items():
                row = rows.loc[(place, model)] if (place, model) in rows.index else None
                cells.append(DASH if row is None else _ours(row))
                if model in published:
                    cells.append(DASH if row is None else _spread(row["published"], row["published_std"]))
        if table:
            result.append(Grid(figure, ["category", *columns], list(table.values())))
    return result


def notes(compared: pd.DataFrame) -> list[str]:
    """Sentences that say how the tables are to be read."""
    lines = ["Percent; mean ± standard deviation over seeds. A dash means that a job is missing or failed."]
    if (compared["configuration"] == UNKNOWN).any():
        lines.append(
            "Some folders in jobs are missing, and with them the configurations of their jobs: seeds of one model are "
            "taken for equal in all else, and where that cannot be, each job stands alone."
        )
    if compared["published"].notna().any():
        lines.append(
            "“Paper” is the figure published in arXiv 2211.11317, for PFADSeg in arXiv 2501.12104; "
            "over fewer than the fifteen categories, its average is the mean over the same categories."
        )
        if (compared["seeds"] > 1).any():
            lines.append(
                "▲ and ▼: ours is higher or lower than the published figure by more than 2 standard deviations."
            )
        if (compared["seeds"] == 1).any():
            lines.append("Where there is one seed there is no standard deviation, and nothing is marked.")
    return lines


def to_markdown(layout: Layout, compared: pd.DataFrame) -> str:
    """Write a table of the papers as Markdown."""
    lines = [f"# {layout.title}", "", " ".join(notes(select(layout, compared))), ""]
    for grid in grids(layout, compared):
        lines += [f"## {grid.heading}", ""]
        aligned = ["---", *["---:"] * (len(grid.columns) - 1)]
        columns, *rows = ([markdown(cell) for cell in cells] for cells in (grid.columns, *grid.rows))
        lines += [f"| {' | '.join(cells)} |" for cells in (columns, aligned, *rows)]
        lines.append("")
    return "\n".join(lines)


def markdown(text: str) -> str:
    r"""Write a text so that Markdown shows it, in a table or elsewhere, as it is.

    Example:
        >>> print(markdown("a|b *new* <i> train_batch_size=[8, 9]"))
        a\|b \*new\* &lt;i&gt; train_batch_size=[8, 9]
    """
    text = escape(" ".join(text.split()), quote=False)
    # Of an underscore, bracket or tilde, only what may begin or end something; names of settings stay readable.
    return re.sub(r"([\\|`*$]|(?<!\w)_|_(?!\w)|~(?=~)|\](?=[(\[:]))", r"\\\1", text)


def _ours(row: "pd.Series[float]") -> str:
    sign = {"above": " ▲", "below": " ▼"}.get(str(row["deviation"]), "")
    return _spread(row["mean"], row["std"]) + sign


def _spread(mean: float, std: float) -> str:
    """``97.3 ± 0.4``, or without the deviation where there is none."""
    if pd.isna(mean):
        return DASH
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"
