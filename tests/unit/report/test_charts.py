# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import json
import re

import numpy as np
import pandas as pd
import pytest
from fabricated import make_results

from destseg_anomalib.report.charts import LEGEND_WIDTH, STEPS, Chart, cost_chart, curve_chart, library, style_of
from destseg_anomalib.report.gallery import BUDGET
from destseg_anomalib.report.page import cost_charts
from destseg_anomalib.report.records import read_curves, read_rows
from destseg_anomalib.report.tables import summarise

MODELS = ["DeSTSeg", "Patchcore", "Newcomer"]


def chart_of(results, place: str, models=MODELS) -> Chart:
    rows = read_rows(results)
    return curve_chart(place, read_curves(results, rows), summarise(rows), models)


def rows_of(chart: Chart) -> pd.DataFrame:
    """What is drawn, with the names of the models."""
    (data,) = chart.spec["datasets"].values()
    table = pd.DataFrame(data)
    return table.assign(name=[names_of(chart)[number] for number in table["number"]])


def names_of(chart: Chart) -> list[str]:
    (calculation,) = chart.spec["transform"]
    return json.loads(re.fullmatch(r"(.*)\[datum\.number\]", calculation["calculate"]).group(1))


def channels_of(chart: Chart) -> dict[str, dict]:
    layers = chart.spec.get("layer", [chart.spec])
    return layers[0]["encoding"]


def test_the_area_under_a_curve_is_the_mean_precision(tmp_path) -> None:
    results = make_results(tmp_path)
    chart = chart_of(results, "bottle")
    assert chart.spec["layer"][0]["mark"]["interpolate"] == "step-before"
    for model, (_, steps) in zip(MODELS, rows_of(chart).groupby("number"), strict=True):
        precision = pd.read_csv(results / "jobs" / f"{model}-bottle-0" / "curve.csv")["precision"]
        assert steps["recall"].iloc[[0, -1]].tolist() == [0, 100]
        area = (np.diff(steps["recall"]) * steps["precision"].to_numpy()[1:]).sum() / 10_000
        assert area == pytest.approx(precision.mean(), abs=0.003)


def test_a_curve_is_the_mean_over_seeds(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"])
    for seed, precision in ((0, 0.2), (1, 0.6)):
        file = results / "jobs" / f"DeSTSeg-bottle-{seed}" / "curve.csv"
        pd.read_csv(file).assign(precision=precision).to_csv(file, index=False)
    assert read_curves(results, read_rows(results))["precision"].to_numpy() == pytest.approx(0.4)


def test_seeds_with_other_images_all_count_in_the_curve_so_that_its_area_is_the_mean_of_theirs(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"])
    for seed, precision in ((0, [0.2, 0.4]), (1, [0.1, 0.5, 0.9])):  # of the highest recall first
        recall = np.arange(len(precision), 0, -1) / len(precision)
        table = pd.DataFrame({"instance_recall": recall, "precision": precision})
        table.to_csv(results / "jobs" / f"DeSTSeg-bottle-{seed}" / "curve.csv", index=False)
    curve = read_curves(results, read_rows(results))
    assert curve["instance_recall"].to_numpy() == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1])
    assert curve["precision"].to_numpy() == pytest.approx([0.65, 0.45, 0.35, 0.15])
    area = (np.diff(curve["instance_recall"], prepend=0) * curve["precision"]).sum()
    assert area == pytest.approx((0.3 + 0.5) / 2)


def test_each_line_is_labelled_with_its_model_and_iap(tmp_path) -> None:
    chart = chart_of(make_results(tmp_path), "cable")
    assert names_of(chart) == ["DeSTSeg 81.0", "Patchcore 71.0", "Newcomer 61.0"]
    assert all(name in chart.description for name in names_of(chart))


def test_a_curve_of_many_regions_is_drawn_with_as_many_steps_as_can_be_seen(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"], seeds=[0])
    recall = np.arange(1, 5001) / 5000
    table = pd.DataFrame({"instance_recall": recall, "precision": 1 - recall})
    table.to_csv(results / "jobs" / "DeSTSeg-bottle-0" / "curve.csv", index=False)
    drawn = rows_of(chart_of(results, "bottle", ["DeSTSeg"]))
    assert len(drawn) == STEPS + 1
    assert drawn["recall"].iloc[-1] == 100
    assert np.abs(100 - drawn["recall"] - drawn["precision"]).max() <= 0.11


def test_eight_models_differ_in_dashes_and_in_shapes_and_more_in_colour_with_them() -> None:
    styles = [style_of(index) for index in range(64)]
    assert len({style.dashes for style in styles[:8]}) == 8
    assert len({(style.shape, style.fill == style.colour) for style in styles[:8]}) == 8
    assert len(set(styles)) == 64


def test_a_model_has_the_same_style_in_every_chart_whether_or_not_others_are_in_it(tmp_path) -> None:
    results = make_results(tmp_path, failing=["Patchcore-cable-0", "Patchcore-cable-1"])
    rows = read_rows(results)
    styles = {model: style_of(index) for index, model in enumerate(MODELS)}
    for place, here in (("bottle", MODELS), ("cable", ["DeSTSeg", "Newcomer"])):
        channels = channels_of(chart_of(results, place))
        assert channels["color"]["scale"]["range"] == [styles[model].colour for model in here]
        assert channels["strokeDash"]["scale"]["range"] == [list(styles[model].dashes) for model in here]
    channels = channels_of(cost_charts(summarise(rows), rows, MODELS)[0])
    assert channels["shape"]["scale"]["range"] == [styles[model].shape for model in MODELS]
    assert channels["fill"]["scale"]["range"] == [styles[model].fill for model in MODELS]


def test_a_legend_breaks_long_names_into_lines_and_drops_nothing_of_them(tmp_path) -> None:
    model = "DeSTSeg (backbone=wide_resnet50_2, student_steps=5000, textures=dtd)"
    legend = channels_of(chart_of(make_results(tmp_path, models=[model]), "bottle", [model]))["color"]["legend"]
    ((name, lines),) = json.loads(legend["labelExpr"].removesuffix("[datum.value]")).items()
    assert " ".join(lines) == name == f"{model} 91.0"
    assert max(map(len, lines)) <= LEGEND_WIDTH
    assert legend["labelLimit"] == 0


@pytest.mark.parametrize("costs", [[5.0], [12.0, 12.0], [0.4, 9000.0]])
def test_points_and_ticks_lie_inside_the_chart(costs) -> None:
    models = [f"model {index}" for index in range(len(costs))]
    points = pd.DataFrame({"model": models, "label": models, "cost": costs, "iap": [100.0, 0.0][: len(costs)]})
    x = channels_of(cost_chart("Speed", "ms", points, models))["x"]
    low, high = x["scale"]["domain"]
    assert all(low < cost < high for cost in costs)
    assert sum(low < tick < high for tick in x["axis"]["values"]) >= 1


def test_a_faster_model_is_to_the_left_and_a_better_one_higher(tmp_path) -> None:
    rows = read_rows(make_results(tmp_path))
    for chart in cost_charts(summarise(rows), rows, MODELS):
        drawn = rows_of(chart)
        assert list(drawn["name"]) == MODELS
        assert drawn["cost"].is_monotonic_increasing
        assert drawn["iap"].is_monotonic_decreasing
        assert not {"reverse", "sort"} & {key for axis in "xy" for key in channels_of(chart)[axis]}


def test_a_model_that_lacks_categories_says_so_beside_its_point(tmp_path) -> None:
    rows = read_rows(make_results(tmp_path, seeds=[0], failing=["Patchcore-cable-0"]))
    assert names_of(cost_charts(summarise(rows), rows, MODELS)[0]) == ["DeSTSeg", "Patchcore (1 of 2)", "Newcomer"]


def test_two_data_sets_have_charts_of_their_own(tmp_path) -> None:
    one = pd.read_csv(make_results(tmp_path / "a", seeds=[0]) / "results.csv")
    two = one.assign(dataset="Visa", IAP=0.25)
    (tmp_path / "both").mkdir()
    pd.concat([one, two]).to_csv(tmp_path / "both" / "results.csv", index=False)
    rows = read_rows(tmp_path / "both")
    charts = {chart.title: rows_of(chart) for chart in cost_charts(summarise(rows), rows, MODELS)}
    assert list(charts)[::2] == ["Time for one image against IAP, MVTecAD", "Time for one image against IAP, Visa"]
    assert set(charts["Time for one image against IAP, Visa"]["iap"]) == {25}
    assert list(charts["Time for one image against IAP, MVTecAD"]["iap"]) == [85, 75, 65]


def test_machines_of_two_kinds_make_two_points_and_two_of_one_kind_make_one(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"])
    table = pd.read_csv(results / "results.csv")
    for machines, expected in (
        (["a: Xeon, 8 of 8 threads", "b: Xeon, 8 of 8 threads"], {"DeSTSeg": 15}),
        (["a: Xeon, 8 of 8 threads", "a: H100, 8 of 8 threads"], {"on Xeon": 10, "on H100": 20}),
    ):
        table.assign(machine=machines, latency_1_median_ms=[10, 20]).to_csv(results / "results.csv", index=False)
        rows = read_rows(results)
        drawn = rows_of(cost_charts(summarise(rows), rows, ["DeSTSeg"])[0])
        assert {
            name.replace("DeSTSeg on", "on").split(",")[0]: cost for name, cost in drawn[["name", "cost"]].to_numpy()
        } == expected


def test_a_page_with_a_full_gallery_and_the_curves_of_mvtec_ad_stays_below_six_megabytes() -> None:
    models = [f"DeSTSeg (student_steps={steps})" for steps in range(6)]
    recall = np.arange(1, 1001) / 1000
    curve = pd.DataFrame({"place": "bottle", "instance_recall": recall, "precision": np.sqrt(1 - recall)})
    curves = pd.concat([curve.assign(model=model) for model in models])
    chart = curve_chart("bottle", curves, pd.DataFrame(columns=["figure", "place", "model", "mean"]), models)
    tables = 100_000
    assert BUDGET + len(library()) + 15 * len(json.dumps(chart)) + tables < 6_000_000
