# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from fabricated import make_results
from hypothesis import given, settings
from hypothesis import strategies as st

from destseg_anomalib.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    cost_chart,
    curve_chart,
    place_labels,
    spread,
    style_of,
)
from destseg_anomalib.report.page import cost_charts
from destseg_anomalib.report.records import read_curves, read_rows
from destseg_anomalib.report.tables import summarise

MODELS = ["DeSTSeg", "Patchcore", "Newcomer"]


def chart_of(results, place: str):
    rows = read_rows(results)
    return curve_chart(place, read_curves(results, rows), summarise(rows), MODELS)


def test_the_area_under_a_curve_is_the_mean_precision(tmp_path) -> None:
    results = make_results(tmp_path)
    chart = chart_of(results, "bottle")
    for line, model in zip(chart.lines, MODELS, strict=True):
        precision = pd.read_csv(results / "jobs" / f"{model}-bottle-0" / "curve.csv")["precision"]
        steps = np.array([[float(number) for number in pair] for pair in re.findall(r"V([\d.]+)H([\d.]+)", line.path)])
        widths = np.diff(steps[:, 1], prepend=LEFT)
        area = (widths * (BOTTOM - steps[:, 0])).sum() / ((chart.right - LEFT) * (BOTTOM - TOP))
        assert area == pytest.approx(precision.mean(), abs=0.003)


def test_a_curve_is_the_mean_over_seeds(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"])
    for seed, precision in ((0, 0.2), (1, 0.6)):
        file = results / "jobs" / f"DeSTSeg-bottle-{seed}" / "curve.csv"
        pd.read_csv(file).assign(precision=precision).to_csv(file, index=False)
    assert read_curves(results, read_rows(results))["precision"].to_numpy() == pytest.approx(0.4)


def test_each_line_is_labelled_with_its_model_and_iap(tmp_path) -> None:
    chart = chart_of(make_results(tmp_path), "cable")
    assert [line.label for line in chart.lines] == ["DeSTSeg 81.0", "Patchcore 71.0", "Newcomer 61.0"]
    assert all(line.label in chart.description for line in chart.lines)


def test_eight_models_differ_in_dashes_and_in_shapes_and_more_in_colour_with_them() -> None:
    styles = [style_of(index) for index in range(64)]
    assert len({style.dash for style in styles[:8]}) == 8
    assert len({(style.shape, style.filled) for style in styles[:8]}) == 8
    assert len(set(styles)) == 64


@settings(deadline=None)  # a machine that runs tests may be busy
@given(st.lists(st.floats(0, 100), max_size=9), st.floats(1, 12))
def test_labels_are_moved_apart_and_keep_their_order(wanted, gap) -> None:
    at = spread(wanted, gap, 0, 100)
    in_order = [at[index] for index in np.argsort(wanted, kind="stable")]
    assert all(later - earlier >= gap - 1e-6 for earlier, later in itertools.pairwise(in_order))
    assert all(-1e-6 <= value <= 100 + 1e-6 for value in at)


def test_labels_of_neighbouring_points_do_not_cover_each_other() -> None:
    points = [(100.0, 100.0), (112.0, 101.0), (300.0, 100.0), (106.0, 110.0)]
    labels = place_labels(points, ["DeSTSeg", "PFADSeg", "Patchcore", "Stfpm"])
    assert len({(x, y) for x, y, _ in labels}) == 4
    boxes = []
    for (x, y, anchor), text in zip(labels, ["DeSTSeg", "PFADSeg", "Patchcore", "Stfpm"], strict=True):
        left = x - {"start": 0, "middle": 0.5, "end": 1}[anchor] * 7 * len(text)
        boxes.append((left, y - 10, left + 7 * len(text), y))
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


@pytest.mark.parametrize("costs", [[5.0], [12.0, 12.0], [0.4, 9000.0]])
def test_points_and_ticks_lie_inside_the_chart(costs) -> None:
    models = [f"model {index}" for index in range(len(costs))]
    points = pd.DataFrame({"model": models, "label": models, "cost": costs, "iap": [100.0, 0.0][: len(costs)]})
    chart = cost_chart("Speed", "ms", points, models)
    assert all(LEFT < point.x < WIDTH and TOP <= point.y <= BOTTOM for point in chart.points)
    assert all(LEFT <= tick.at <= WIDTH and float(tick.text.replace(",", "")) > 0 for tick in chart.x_ticks)
    assert all(0 <= tick.at <= HEIGHT for tick in chart.y_ticks)
    assert len(chart.x_ticks) >= 1


def test_a_faster_model_is_to_the_left_and_a_better_one_higher(tmp_path) -> None:
    rows = read_rows(make_results(tmp_path))
    for chart in cost_charts(summarise(rows), rows, MODELS):
        assert [point.x for point in chart.points] == sorted(point.x for point in chart.points)
        assert [point.y for point in chart.points] == sorted(point.y for point in chart.points)


def test_a_model_that_lacks_categories_says_so_beside_its_point(tmp_path) -> None:
    rows = read_rows(make_results(tmp_path, seeds=[0], failing=["Patchcore-cable-0"]))
    labels = [point.label for point in cost_charts(summarise(rows), rows, MODELS)[0].points]
    assert labels == ["DeSTSeg", "Patchcore (1 of 2)", "Newcomer"]
