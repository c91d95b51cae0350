# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The picture of IAP: pixel precision over instance recall."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from destseg_anomalib.metrics.curves import InstanceCurve, index_at_recall, mean_precision


def plot_instance_curve(
    curve: InstanceCurve, recall: float = 0.9, ax: Axes | None = None
) -> tuple[Figure | None, Axes]:
    """Plot pixel precision over instance recall, with IAP as the shaded area and IAP@k as a point.

    Args:
        curve: The curve.
        recall: Instance recall k to mark, in [0, 1].
        ax: Axes to draw on, by default those of a new figure.

    Returns:
        The new figure, or ``None`` if ``ax`` was given, and the axes.

    Raises:
        ValueError: If the curve has no region.

    Example:
        >>> curve = InstanceCurve(np.array([0.2, 0.7], dtype=np.float32), *np.array([[0.5, 0.9]] * 3))
        >>> _, ax = plot_instance_curve(curve)
        >>> ax.get_xlabel()
        'Instance recall'
    """
    regions = curve.scores.size
    if not regions:
        msg = "There is no region to plot: update the metric with masks that hold one."
        raise ValueError(msg)
    fig, axes = plt.subplots() if ax is None else (None, ax)
    # Between the recalls of two neighbouring regions the precision at the higher recall holds.
    steps, edges = curve.precision[::-1], np.linspace(0, 1, regions + 1)
    area = axes.stairs(steps, edges, fill=True, alpha=0.25, label=f"IAP = {mean_precision(curve.precision):.3f}")
    axes.stairs(steps, edges, baseline=None, color=area.get_facecolor(), alpha=1, linewidth=2)
    at = curve.precision[index_at_recall(regions, recall)]
    axes.vlines(recall, 0, at, color="black", linestyle=":")
    axes.plot(recall, at, "o", color="black", label=f"IAP@{100 * recall:g} = {at:.3f}")
    axes.set(
        xlim=(0, 1), ylim=(0, 1.05), xlabel="Instance recall", ylabel="Pixel precision", title=f"{regions} regions"
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower left")
    return fig, axes
