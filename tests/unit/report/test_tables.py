# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pandas as pd
import pytest
from fabricated import METRICS, make_results

from destseg_anomalib.report import tables
from destseg_anomalib.report.records import COSTS, ENVIRONMENT, read_rows
from destseg_anomalib.report.tables import LAYOUTS, PUBLISHED_FIGURES, compare, grids, summarise, to_markdown

PUBLISHED = pd.read_csv(Path(tables.__file__).with_name("published.csv"))
MVTEC = sorted(set(PUBLISHED["category"]) - {"average"})


def rows_of(values: dict[tuple[str, str], list[float]], dataset: str = "MVTecAD") -> pd.DataFrame:
    """Rows of finished jobs, whose figures are all the same: one value for each seed of a model and category."""
    rows = [
        {"job": "j", "model": model, "dataset": dataset, "category": category, "place": category, "seed": seed}
        | {"status": "finished", "method": model, "configuration": ""}
        | dict.fromkeys((*METRICS, *COSTS), value)
        | dict.fromkeys(ENVIRONMENT, "")
        for (model, category), figures in values.items()
        for seed, value in enumerate(figures)
    ]
    return pd.DataFrame(rows)


def row_of(table: pd.DataFrame, category: str, figure: str = "IAP", model: str = "DeSTSeg") -> pd.Series:
    found = table[(table["category"] == category) & (table["figure"] == figure) & (table["model"] == model)]
    assert len(found) == 1
    return found.iloc[0]


def test_figures_are_means_and_sample_deviations_over_seeds_in_percent() -> None:
    row = row_of(summarise(rows_of({("DeSTSeg", "bottle"): [0.8, 0.9]})), "bottle")
    assert row["mean"] == pytest.approx(85)
    assert row["std"] == pytest.approx(7.0710678)
    assert row["seeds"] == 2


def test_costs_keep_their_units() -> None:
    summary = summarise(rows_of({("DeSTSeg", "bottle"): [0.8, 0.9]}))
    assert row_of(summary, "bottle", "fit_seconds")["mean"] == pytest.approx(0.85)


def test_the_average_deviates_as_the_seeds_averages_do_and_not_as_the_categories_do() -> None:
    rows = rows_of({("DeSTSeg", "bottle"): [0.8, 0.9], ("DeSTSeg", "cable"): [0.7, 0.6]})
    average = row_of(summarise(rows), "average")
    assert average["mean"] == pytest.approx(75)
    assert average["std"] == pytest.approx(0, abs=1e-9)


def test_a_model_that_lacks_a_category_has_no_average() -> None:
    rows = rows_of({("DeSTSeg", "bottle"): [0.8], ("DeSTSeg", "cable"): [0.7], ("Stfpm", "bottle"): [0.8]})
    summary = summarise(rows)
    assert set(summary.loc[summary["category"] == "average", "model"]) == {"DeSTSeg"}


def test_a_seed_that_lacks_a_category_does_not_count_in_the_average(tmp_path) -> None:
    rows = read_rows(make_results(tmp_path, ["DeSTSeg"], failing=["DeSTSeg-cable-0"]))
    average = row_of(summarise(rows), "average")
    assert average["seeds"] == 1
    assert average["mean"] == pytest.approx((92 + 82) / 2)


def published(category: str, metric: str = "iap", method: str = "DeSTSeg") -> float:
    chosen = PUBLISHED.query("category == @category and metric == @metric and method == @method")
    assert len(chosen) == 1
    return chosen["mean"].item()


@pytest.mark.parametrize(
    ("distance", "deviation"),
    [(0.0, ""), (1.9, ""), (-1.9, ""), (2.2, "above"), (-2.2, "below")],
)
def test_the_mark_is_for_published_figures_beyond_two_deviations_of_ours(distance, deviation) -> None:
    centre = published("bottle") + distance  # two seeds at ± 1/√2 deviate by 1
    figures = [(centre + offset) / 100 for offset in (-(0.5**0.5), 0.5**0.5)]
    row = row_of(compare(summarise(rows_of({("DeSTSeg", "bottle"): figures}))), "bottle")
    assert row["std"] == pytest.approx(1)
    assert row["published"] == published("bottle")
    assert row["deviation"] == deviation


def test_the_rounding_of_a_published_figure_is_no_deviation() -> None:
    exact = (published("bottle") - 0.04) / 100
    row = row_of(compare(summarise(rows_of({("DeSTSeg", "bottle"): [exact, exact]}))), "bottle")
    assert row["deviation"] == ""


def test_with_one_seed_nothing_is_marked_and_the_table_says_so() -> None:
    compared = compare(summarise(rows_of({("DeSTSeg", "bottle"): [0.1]})))
    assert set(compared["deviation"]) == {""}
    for layout in LAYOUTS:
        text = to_markdown(layout, compared)
        assert "there is no standard deviation, and nothing is marked" in text
        assert not set("▲▼") & set(text)
        assert "| bottle | 10.0 | " in text


def test_marks_are_signs_in_the_text() -> None:
    compared = compare(summarise(rows_of({("DeSTSeg", "bottle"): [0.1, 0.11], ("Stfpm", "bottle"): [0.99, 1.0]})))
    text = to_markdown(LAYOUTS[2], compared)
    assert "| category | DeSTSeg | DeSTSeg, paper | Stfpm | Stfpm, paper |" in text
    assert f"| bottle | 10.5 ± 0.7 ▼ | {published('bottle'):.1f} ± 1.7 | 99.5 ± 0.7 ▲ | 83.2 |" in text


def test_over_some_categories_the_published_average_is_of_the_same_ones() -> None:
    compared = compare(summarise(rows_of({("DeSTSeg", name): [0.5, 0.6] for name in ("bottle", "cable")})))
    assert row_of(compared, "average")["published"] == pytest.approx((published("bottle") + published("cable")) / 2)


def test_over_all_categories_the_published_average_is_the_papers() -> None:
    compared = compare(summarise(rows_of({(model, name): [0.5] for model in ("DeSTSeg", "PFADSeg") for name in MVTEC})))
    assert row_of(compared, "average")["published"] == published("average") == 76.4
    assert row_of(compared, "average")["published_std"] == 1.0
    assert row_of(compared, "average", "image_AUROC", "PFADSeg")["published"] == 98.9


@pytest.mark.parametrize(
    ("model", "method"),
    [("PFADSeg", "PFADSeg"), ("Patchcore", "PatchCore"), ("Draem", "DRAEM"), ("Stfpm", "STPM"), ("Dsr", "DSR")],
)
def test_bundled_models_stand_beside_the_papers_names_for_them(model, method) -> None:
    row = row_of(compare(summarise(rows_of({(model, "carpet"): [0.5]}))), "carpet", "pixel_AP", model)
    assert row["published"] == published("carpet", "pixel_ap", method)


def test_other_data_and_other_models_are_not_compared_even_where_a_category_has_the_same_name() -> None:
    folder = compare(summarise(rows_of({("DeSTSeg", "bottle"): [0.5]}, dataset="Folder")))
    other = compare(summarise(rows_of({("DeSTSeg-without-denoising", "bottle"): [0.5]})))
    assert folder["published"].isna().all()
    assert other["published"].isna().all()
    assert "paper" not in to_markdown(LAYOUTS[2], folder)


def test_every_published_figure_has_a_place_in_a_table() -> None:
    assert set(PUBLISHED_FIGURES.values()) == set(PUBLISHED["metric"])
    assert {figure for layout in LAYOUTS for figure in layout.figures} == set(PUBLISHED_FIGURES)


def test_the_first_table_has_the_average_alone_and_others_end_with_it() -> None:
    compared = compare(summarise(rows_of({("DeSTSeg", name): [0.5] for name in ("bottle", "cable")})))
    shown = {layout.name: [row[0] for row in grids(layout, compared)[0].rows] for layout in LAYOUTS}
    assert shown.pop("table_1_image") == ["average"]
    assert all(places == ["bottle", "cable", "average"] for places in shown.values())


def test_two_data_sets_are_told_apart_and_averaged_apart(tmp_path) -> None:
    one = pd.read_csv(make_results(tmp_path / "a") / "results.csv")
    two = pd.read_csv(make_results(tmp_path / "b", dataset="Visa", categories=["pcb1", "pcb2"]) / "results.csv")
    (tmp_path / "both").mkdir()
    pd.concat([one, two]).to_csv(tmp_path / "both" / "results.csv", index=False)
    compared = compare(summarise(read_rows(tmp_path / "both")))
    places = [row[0] for row in grids(LAYOUTS[1], compared)[0].rows]
    assert places == [f"MVTecAD / {name}" for name in ("bottle", "cable", "average")] + [
        f"Visa / {name}" for name in ("pcb1", "pcb2", "average")
    ]


def test_the_package_holds_the_published_figures_as_they_were_collected(shared) -> None:
    assert (shared / "published" / "mvtec_ad.csv").read_bytes() == Path(tables.__file__).with_name(
        "published.csv"
    ).read_bytes()
