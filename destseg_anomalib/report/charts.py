# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Geometry of the page's charts; the template draws it. Lengths are in the units of the charts' view boxes."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator

# Every model keeps its style in all charts. Lines differ in dashes and points in shape, so that no chart needs colour.
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 4", "9 3 2 3 2 3")
_CIRCLE, _SQUARE = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-4.5-4.5h9v9h-9z"
SHAPES = (
    (_CIRCLE, True),
    (_SQUARE, True),
    ("M0-6L5.5 4h-11z", True),
    ("M0-6.5L6 0 0 6.5-6 0z", True),
    ("M-5-5L5 5M5-5L-5 5", False),
    ("M0-6V6M-6 0H6", False),
    (_CIRCLE, False),
    (_SQUARE, False),
)

WIDTH, HEIGHT = 360, 240
LEFT, TOP, BOTTOM = 40, 12, 204
SAMPLE = 33  # between a curve's end and its label, with a sample of its dashes
POINTS_RIGHT = 344
LINE = 14  # height of a line of text
CHARACTER = 7.2  # width of a character, generously
NAME_LENGTH = 24  # characters of the longest label; the page names the model in full elsewhere


class Tick(NamedTuple):
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


class Style(NamedTuple):
    """How a model looks: number of its colour, dashes of its line, path of its points and whether that is filled."""

    colour: int
    dash: str
    shape: str
    filled: bool


class Line(NamedTuple):
    """A curve: SVG path data, its style, where it ends, and its label with the height at which that stands."""

    path: str
    style: Style
    end: float
    label: str
    label_at: float


class Point(NamedTuple):
    """A point with its label, whose anchor is ``start``, ``middle`` or ``end``."""

    x: float
    y: float
    style: Style
    label: str
    label_x: float
    label_y: float
    anchor: str


class Chart(NamedTuple):
    """A chart: title, what it shows in words, names and ticks of its axes, and its lines or points."""

    title: str
    description: str
    x_name: str
    y_name: str
    right: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    points: list[Point]


def style_of(index: int) -> Style:
    """Style of the model with this number; past eight models the pairs of colour and dash change.

    Args:
        index: Number of the model, from 0.

    Returns:
        Its style, which no other of the first 64 models has.

    Example:
        >>> style_of(1).dash == style_of(9).dash, style_of(1).colour == style_of(9).colour
        (True, False)
    """
    turn = index // len(DASHES)
    return Style((index + turn) % len(DASHES), DASHES[index % len(DASHES)], *SHAPES[index % len(SHAPES)])


def curve_chart(place: str, curves: pd.DataFrame, summary: pd.DataFrame, models: Sequence[str]) -> Chart:
    """Draw pixel precision over instance recall for all models on one category.

    Args:
        place: The category.
        curves: What :func:`~destseg_anomalib.report.records.read_curves` returns.
        summary: What :func:`~destseg_anomalib.report.tables.summarise` returns.
        models: All models, in the order of their styles.

    Returns:
        The chart; each line is labelled with its model and IAP in percent.
    """
    iap = summary[(summary["figure"] == "IAP") & (summary["place"] == place)].set_index("model")["mean"]
    here = curves[curves["place"] == place]
    labels = {model: f"{model} {iap[model]:.1f}" if model in iap else model for model in here["model"].unique()}
    short = {
        model: label if len(label) <= NAME_LENGTH else label[: NAME_LENGTH - 1] + "…" for model, label in labels.items()
    }
    right = WIDTH - SAMPLE - CHARACTER * max(map(len, short.values()))

    def x(recall: float) -> float:
        return LEFT + recall * (right - LEFT)

    def y(precision: float) -> float:
        return BOTTOM - precision * (BOTTOM - TOP)

    lines = []
    for index, model in enumerate(models):
        curve = here[here["model"] == model].sort_values("instance_recall")
        if curve.empty:
            continue
        # Between the recalls of two neighbouring regions the precision at the higher recall holds.
        heights = [round(y(value), 1) for value in curve["precision"]]
        steps = [f"V{at:g}H{x(recall):.1f}" for recall, at in zip(curve["instance_recall"], heights, strict=True)]
        path = f"M{LEFT} {heights[0]:g}{''.join(steps)}"
        lines.append(Line(path, style_of(index), heights[-1], short[model], heights[-1]))
    labels_at = spread([line.end for line in lines], LINE, TOP, BOTTOM)
    lines = [line._replace(label_at=at) for line, at in zip(lines, labels_at, strict=True)]
    marks = (0, 0.25, 0.5, 0.75, 1)
    return Chart(
        title=place,
        description=f"Pixel precision over instance recall on {place}. IAP in percent: " + ", ".join(labels.values()),
        x_name="instance recall, %",
        y_name="pixel precision, %",
        right=right,
        x_ticks=[Tick(x(mark), f"{100 * mark:g}") for mark in (0, 0.25, 0.5, 0.75, 0.9)],
        y_ticks=[Tick(y(mark), f"{100 * mark:g}") for mark in marks],
        lines=lines,
        points=[],
    )


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
    x_ticks, x = _logarithmic(points["cost"].min(), points["cost"].max())
    heights = MaxNLocator(5, min_n_ticks=3).tick_values(points["iap"].min() - 2, points["iap"].max() + 2)
    low, high = max(heights[0], 0), min(heights[-1], 100)

    def y(value: float) -> float:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    places = list(zip(map(x, points["cost"]), map(y, points["iap"]), strict=True))
    texts = list(points["label"])
    labels = place_labels(places, texts)
    styles = [style_of(list(models).index(model)) for model in points["model"]]
    marks = zip(places, styles, texts, labels, strict=True)
    drawn = [Point(px, py, style, text, lx, ly, anchor) for (px, py), style, text, (lx, ly, anchor) in marks]
    said = (f"{row.label}: {row.cost:.3g}, IAP {row.iap:.1f}" for row in points.itertuples())
    return Chart(
        title=title,
        description=f"{title}. {unit}, and IAP in percent: {'; '.join(said)}",
        x_name=f"{unit}, logarithmic",
        y_name="IAP, %",
        right=POINTS_RIGHT,
        x_ticks=x_ticks,
        y_ticks=[Tick(y(value), f"{value:g}") for value in heights if low <= value <= high],
        lines=[],
        points=drawn,
    )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours are at least ``gap`` from each other, near to where they were wanted.

    Args:
        wanted: Positions.
        gap: Smallest distance.
        low: Smallest position allowed.
        high: Largest position allowed, unless there are too many.

    Returns:
        Positions in the order of ``wanted``.

    Example:
        >>> spread([5, 6, 90], 10, 0, 100)
        [5, 15, 90]
        >>> spread([99, 100], 10, 0, 100)
        [90, 100]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    at = [max(wanted[index], low) for index in order]
    for index in range(1, len(at)):
        at[index] = max(at[index], at[index - 1] + gap)
    limit = max(high, low + gap * (len(at) - 1))
    for index in reversed(range(len(at))):
        at[index] = min(at[index], limit)
        limit = at[index] - gap
    return [at[order.index(index)] for index in range(len(at))]


def place_labels(points: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[tuple[float, float, str]]:
    """Put a label beside each point where it covers no point, no other label and stays inside the chart.

    Args:
        points: Points, x and y.
        texts: Their labels.

    Returns:
        Position and text anchor of each label.

    Example:
        >>> place_labels([(100, 50), (115, 50)], ["A", "B"])  # to the left of A, because B is on its right
        [(91, 54, 'end'), (124, 54, 'start')]
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    labels = []
    for (x, y), text in zip(points, texts, strict=True):
        width = CHARACTER * len(text)
        choices = [
            (x + 9, y + 4, "start"),
            (x - 9, y + 4, "end"),
            *((x, y + side * LINE * step, "middle") for step in (1, 2, 3, 4) for side in (-0.8, 1.3)),
        ]
        boxes = [_box(*choice, width) for choice in choices]
        free = [
            choice
            for choice, box in zip(choices, boxes, strict=True)
            if box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM
            if not any(_overlap(box, other) for other in taken)
        ]
        label = (free or choices)[0]
        taken.append(_box(*label, width))
        labels.append(label)
    return labels


def _box(x: float, y: float, anchor: str, width: float) -> tuple[float, float, float, float]:
    left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
    return left, y - 0.8 * LINE, left + width, y + 0.2 * LINE


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _logarithmic(low: float, high: float) -> tuple[list[Tick], Callable[[float], float]]:
    """Ticks of a logarithmic axis that holds these values with room to spare, and the scale of it."""
    start, end = math.log(low / 1.6), math.log(high * 1.6)

    def x(value: float) -> float:
        return LEFT + (math.log(value) - start) / (end - start) * (POINTS_RIGHT - LEFT)

    values = LogLocator(10, (1, 2, 5), numticks=50).tick_values(math.exp(start), math.exp(end))
    ticks = [Tick(x(value), f"{value:,g}") for value in values if start <= math.log(value) <= end]
    while any(later.at - earlier.at < 32 for earlier, later in pairwise(ticks)):
        ticks = ticks[::2]
    return ticks, x
