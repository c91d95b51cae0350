# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The page's charts as Vega-Lite, which Altair writes and checks and the browser draws."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

# Every model keeps its style in all charts. Lines differ in dashes and points in shape, so that no chart needs colour.
DASHES = ((1, 0), (7, 3), (2, 3), (9, 3, 2, 3), (4, 2), (12, 4), (1, 4), (9, 3, 2, 3, 2, 3))
SHAPES = ("circle", "square", "triangle-up", "diamond", "M-1-1L1 1M1-1L-1 1", "M0-1V1M-1 0H1", "circle", "square")
HOLLOW = (6, 7)
HEIGHT = 190  # pixels between the axes; the width is the page's
STEPS = 120  # of a curve, at most: more would be finer than its line
LEGEND_WIDTH = 38  # characters in a line, which fit on a phone
# Colours are the page's own, so that charts go dark with it. Their text alternative is the page's as well.
LOOK = {
    "aria": False,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor"), "var(--ink)"),
        **dict.fromkeys(("domainColor", "tickColor"), "var(--faint)"),
        **dict.fromkeys(("labelFontSize", "titleFontSize"), 12),
        "gridColor": "var(--rule)",
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": "var(--ink)", "labelFontSize": 12, "symbolStrokeWidth": 2},
}


class Style(NamedTuple):
    """How a model looks: its colour, the dashes of its line, the shape of its points and what fills them."""

    colour: str
    dashes: tuple[int, ...]
    shape: str
    fill: str


class Chart(NamedTuple):
    """A chart: its title, what it shows in words, and its Vega-Lite."""

    title: str
    description: str
    spec: dict[str, Any]


@cache  # takes seconds
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which asks for no other file."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", ".".join(alt.SCHEMA_VERSION.split(".")[:2]))


def style_of(index: int) -> Style:
    """Style of the model with this number; past eight models the pairs of colour and dashes change.

    Args:
        index: Number of the model, from 0.

    Returns:
        Its style, which no other of the first 64 models has.

    Example:
        >>> style_of(1).dashes == style_of(9).dashes, style_of(1).colour == style_of(9).colour
        (True, False)
    """
    turn, kind = divmod(index, len(DASHES))
    colour = f"var(--c{(index + turn) % len(DASHES)})"
    return Style(colour, DASHES[kind], SHAPES[kind], "var(--paper)" if kind in HOLLOW else colour)


def curve_chart(place: str, curves: pd.DataFrame, summary: pd.DataFrame, models: Sequence[str]) -> Chart:
    """Draw pixel precision over instance recall for all models on one category.

    Args:
        place: The category.
        curves: What :func:`~destseg_anomalib.report.records.read_curves` returns.
        summary: What :func:`~destseg_anomalib.report.tables.summarise` returns.
        models: All models, in the order of their styles.

    Returns:
        The chart; its legend names each model with its IAP in percent.
    """
    iap = summary[(summary["figure"] == "IAP") & (summary["place"] == place)].set_index("model")["mean"]
    here = curves[curves["place"] == place].sort_values("instance_recall")
    styles: dict[str, Style] = {}
    tables = []
    for index, model in enumerate(models):
        points = 100 * here.loc[here["model"] == model, ["instance_recall", "precision"]].to_numpy(dtype=float)
        if not len(points):
            continue
        points = points[np.unique(np.linspace(0, len(points) - 1, STEPS).round().astype(int))]
        # Between the recalls of two neighbouring regions the precision at the higher recall holds.
        points = np.vstack([[0, points[0, 1]], points]).round(1)
        tables.append(pd.DataFrame(points, columns=["recall", "precision"]).assign(number=len(styles)))
        styles[f"{model} {iap[model]:.1f}" if model in iap else model] = style_of(index)
    percent = alt.Scale(domain=[0, 100])
    chart = alt.Chart(pd.concat(tables)).encode(
        alt.X("recall:Q", title="instance recall, %", scale=percent, axis=alt.Axis(values=[0, 25, 50, 75, 90])),
        alt.Y("precision:Q", title="pixel precision, %", scale=percent, axis=alt.Axis(tickCount=5)),
    )
    legend = _legend(styles, symbolType="stroke", symbolSize=600)
    lines = chart.mark_line(interpolate="step-before").encode(
        alt.Color("name:N", scale=_scale(styles, "colour"), legend=legend),
        alt.StrokeDash("name:N", scale=_scale(styles, "dashes"), legend=legend),
    )
    nearest = _nearest()
    points = chart.mark_point(filled=True, size=70).encode(
        alt.Color("name:N"),
        opacity=alt.when(nearest, empty=False).then(alt.value(1)).otherwise(alt.value(0)),
        tooltip=_tooltip({"model, IAP": "name", "instance recall, %": "recall", "pixel precision, %": "precision"}),
    )
    description = f"Pixel precision over instance recall on {place}. IAP in percent: {', '.join(styles)}"
    return Chart(place, description, _finish(lines + points.add_params(nearest), styles))


def cost_chart(title: str, unit: str, points: pd.DataFrame, models: Sequence[str]) -> Chart:
    """Draw a cost, on a logarithmic axis, against IAP.

    Args:
        title: Its title.
        unit: Name and unit of the cost.
        points: Columns ``model``, ``label``, ``cost`` (positive) and ``iap`` (percent), at least one row.
        models: All models, in the order of their styles.

    Returns:
        The chart.
    """
    styles = {
        str(label): style_of(list(models).index(model))
        for label, model in zip(points["label"], points["model"], strict=True)
    }
    table = points.assign(number=range(len(points)), cost=points["cost"].map("{:.3g}".format).astype(float))
    room = alt.Scale(type="log", nice=False, domain=[points["cost"].min() / 1.6, points["cost"].max() * 1.6])
    marks = [factor * 10.0**power for power in range(-3, 8) for factor in (1, 2, 5)]
    legend = _legend(styles, symbolSize=110)
    chart = alt.Chart(table[["number", "cost", "iap"]].round({"iap": 1}))
    chart = chart.mark_point(size=110, strokeWidth=2, opacity=1).encode(
        alt.X("cost:Q", title=f"{unit}, logarithmic", scale=room, axis=alt.Axis(values=marks)),
        alt.Y("iap:Q", title="IAP, %", scale=alt.Scale(zero=False, padding=15), axis=alt.Axis(tickCount=5)),
        alt.Stroke("name:N", scale=_scale(styles, "colour"), legend=legend),
        alt.Fill("name:N", scale=_scale(styles, "fill"), legend=legend),
        alt.Shape("name:N", scale=_scale(styles, "shape"), legend=legend),
        tooltip=_tooltip({"model": "name", unit: "cost", "IAP, %": "iap"}),
    )
    said = (f"{row.label}: {row.cost:.3g}, IAP {row.iap:.1f}" for row in points.itertuples())
    description = f"{title}. {unit}, and IAP in percent: {'; '.join(said)}"
    return Chart(title, description, _finish(chart.add_params(_nearest()), styles))


def _scale(styles: Mapping[str, Style], part: str) -> alt.Scale:
    return alt.Scale(domain=list(styles), range=[getattr(style, part) for style in styles.values()])


def _legend(styles: Mapping[str, Style], **symbols: Any) -> alt.Legend:  # noqa: ANN401 - as Altair's own
    lines = {name: textwrap.wrap(name, LEGEND_WIDTH) for name in styles}
    text = f"{json.dumps(lines)}[datum.value]"
    return alt.Legend(title=None, orient="bottom", columns=1, labelLimit=0, labelExpr=text, **symbols)


def _nearest() -> alt.Parameter:
    """Lets every place of the plot answer for the point that is nearest to it."""
    return alt.selection_point(nearest=True, on="pointerover", clear="pointerout")


def _tooltip(fields: Mapping[str, str]) -> alt.TooltipValue:
    # What takes the pointer is the cell around a point, with the point's datum as its own `datum`. Where a tooltip is
    # given as fields, Vega-Lite 6 finds numbers there, but no names.
    values = (f"{json.dumps(title)}: (datum.datum || datum).{field}" for title, field in fields.items())
    return alt.TooltipValue(alt.ExprRef(f"{{{', '.join(values)}}}"))


def _finish(chart: alt.Chart | alt.LayerChart, styles: Mapping[str, Style]) -> dict[str, Any]:
    # Rows hold numbers of models: with their names the page would be twice as large.
    named = chart.transform_calculate(name=f"{json.dumps(list(styles))}[datum.number]")
    return named.properties(width="container", height=HEIGHT, background="transparent", config=LOOK).to_dict()
