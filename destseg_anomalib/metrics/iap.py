# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Instance average precision (IAP) and precision at an instance recall (IAP@k).

Regions of the ground truth are instances. A region of n pixels counts as found at a threshold if more than half of it
is predicted; its score s is the highest such threshold, the value at index ``min(floor(n / 2), n - 1)`` of its pixels
in descending order. With the N scores in ascending order and all pixels of the test set,

    P_i = max over j <= i of TP(s_j) / PP(s_j),   IAP = mean of P_i,   IAP@k = P[min(floor(N (1 - k)), N - 1)],

where PP are the predicted pixels (score >= s) and TP those of them inside the ground truth (DeSTSeg, arXiv 2211.11317,
section 4.1). Other projects call different quantities IAP.
"""

from collections.abc import Sequence

import numpy as np
import torch
from anomalib.metrics import AnomalibMetric
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torchmetrics.utilities import rank_zero_warn

from destseg_anomalib.metrics.curves import (
    InstanceCurve,
    instance_curve,
    instance_precision,
    mean_precision,
    precision_at,
)
from destseg_anomalib.metrics.instances import Regions
from destseg_anomalib.metrics.levels import BinnedPixels, ExactPixels
from destseg_anomalib.metrics.ordering import from_ordered, to_ordered
from destseg_anomalib.metrics.plotting import plot_instance_curve
from destseg_anomalib.metrics.store import PixelStore


def instance_average_precision(preds: torch.Tensor, target: torch.Tensor, overlap: float = 0.5) -> torch.Tensor:
    """Instance average precision of a whole test set, exactly.

    Args:
        preds: Anomaly maps ``(B, H, W)`` or ``(B, 1, H, W)``, any real dtype and range; compared in float32.
        target: Ground truth of the same batch and size, boolean, or numbers that are 0 or 1.
        overlap: Fraction of a region that must be exceeded for it to count as found, in [0, 1).

    Returns:
        Float64 scalar on the CPU in [0, 1]; NaN, with a warning, if there is no region.

    Raises:
        ValueError: If the shapes are wrong or differ, a mask is not binary, a map holds NaN, or ``overlap`` is out of
            range.

    Example:
        >>> import torch
        >>> preds = torch.tensor([[[0.9, 0.8, 0.1, 0.2], [0.7, 0.3, 0.4, 0.5]]])
        >>> target = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 1]]])
        >>> instance_average_precision(preds, target)
        tensor(1., dtype=torch.float64)
        >>> round(instance_average_precision(preds, 1 - target).item(), 3)
        0.429
    """
    return _of_set(_IAP(overlap=overlap), preds, target)


def precision_at_instance_recall(
    preds: torch.Tensor, target: torch.Tensor, recall: float = 0.9, overlap: float = 0.5
) -> torch.Tensor:
    """Pixel precision where a fraction of the instances is found (IAP@k), exactly.

    Args:
        preds: Anomaly maps ``(B, H, W)`` or ``(B, 1, H, W)``, any real dtype and range; compared in float32.
        target: Ground truth of the same batch and size, boolean, or numbers that are 0 or 1.
        recall: Fraction k of the instances that must be found, in [0, 1].
        overlap: Fraction of a region that must be exceeded for it to count as found, in [0, 1).

    Returns:
        Float64 scalar on the CPU in [0, 1]; NaN, with a warning, if there is no region.

    Raises:
        ValueError: If the shapes are wrong or differ, a mask is not binary, a map holds NaN, or ``recall`` or
            ``overlap`` is out of range.

    Example:
        >>> import torch
        >>> preds = torch.tensor([[[0.9, 0.1, 0.3, 0.1, 0.2]]])
        >>> target = torch.tensor([[[1, 0, 0, 0, 1]]])
        >>> precision_at_instance_recall(preds, target, recall=0.5)
        tensor(1., dtype=torch.float64)
        >>> round(precision_at_instance_recall(preds, target, recall=0.9).item(), 3)
        0.667
    """
    return _of_set(_IAPAtRecall(recall=recall, overlap=overlap), preds, target)


def curve_of(pixels: ExactPixels | BinnedPixels, regions: Regions) -> InstanceCurve:
    """Precision over instance recall, counted at the region scores alone.

    Args:
        pixels: The pixels by level.
        regions: The regions.

    Returns:
        The curve; empty, with a warning, if there is no region.
    """
    keys = np.sort(to_ordered(regions.scores))
    if not keys.size:
        rank_zero_warn("The ground truth holds no region, so IAP and IAP@k are undefined (NaN).", UserWarning)
    return instance_curve(from_ordered(keys), instance_precision(pixels.at(keys), keys))


class _InstanceMetric(PixelStore):
    """Store and settings shared by both metrics."""

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    recall = 0.9

    def __init__(self, overlap: float = 0.5, bits: int | None = None, **kwargs: object) -> None:
        super().__init__(bits=bits, overlap=overlap, **kwargs)
        self.bracket = (float("nan"), float("nan"))

    def plot(self, curve: InstanceCurve | None = None, ax: Axes | None = None) -> tuple[Figure | None, Axes]:
        """Plot precision over instance recall, with IAP shaded and IAP@k marked.

        Args:
            curve: What to plot, by default the curve of everything seen so far.
            ax: Axes to draw on, by default those of a new figure.

        Returns:
            The new figure, or ``None`` if ``ax`` was given, and the axes.
        """
        if curve is None:
            with self.sync_context(should_sync=self._to_sync):
                curve = curve_of(*self.collect())
        return plot_instance_curve(curve, self.recall, ax)


class _IAP(_InstanceMetric):
    """IAP of tensors."""

    def compute(self) -> torch.Tensor:
        """Compute IAP; sets ``bracket``."""
        curve = curve_of(*self.collect())
        self.bracket = mean_precision(curve.lower), mean_precision(curve.upper)
        return torch.tensor(mean_precision(curve.precision), dtype=torch.float64)


class _IAPAtRecall(_InstanceMetric):
    """IAP@k of tensors."""

    def __init__(self, recall: float = 0.9, overlap: float = 0.5, bits: int | None = None, **kwargs: object) -> None:
        if not 0 <= recall <= 1:
            msg = f"recall is a fraction of the instances in [0, 1], got {recall}."
            raise ValueError(msg)
        super().__init__(overlap=overlap, bits=bits, **kwargs)
        self.recall = recall

    def compute(self) -> torch.Tensor:
        """Compute IAP@k; sets ``bracket``."""
        curve = curve_of(*self.collect())
        self.bracket = precision_at(curve.lower, self.recall), precision_at(curve.upper, self.recall)
        return torch.tensor(precision_at(curve.precision, self.recall), dtype=torch.float64)


def _of_set(metric: _IAP | _IAPAtRecall, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Value of a metric for one set, in this process alone."""
    metric.sync_on_compute = metric._to_sync = False
    metric.update(preds, target)
    return metric.compute()


class IAP(AnomalibMetric, _IAP):
    """Instance average precision as an anomalib metric.

    In anomalib's own evaluator a test sees maps that were normalised and clamped to [0, 1], which ties pixels that the
    model tells apart; :class:`destseg_anomalib.metrics.RawMapEvaluator` ranks raw maps.

    Args:
        overlap: Fraction of a region that must be exceeded for it to count as found, in [0, 1).
        bits: ``None`` for an exact figure, or the leading bits of a float32 score, 10 to 24, by which pixels are
            counted in histograms of fixed size; 18 is good to 1e-5 on usual maps. After ``compute``, ``bracket`` holds
            bounds that the exact figure cannot leave.
        fields: Names of the batch's map and mask, ``("anomaly_map", "gt_mask")`` by default.
        prefix: Put before the logged name ``IAP``.
        strict: Whether a batch without map or mask is an error; else it is left out.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Attributes:
        bracket: Lower and upper bound of the last computed figure; both equal it if ``bits`` is ``None``.

    Raises:
        ValueError: If ``overlap`` or ``bits`` is out of range.

    Example:
        >>> import torch
        >>> from anomalib.data import ImageBatch
        >>> batch = ImageBatch(
        ...     image=torch.zeros(1, 3, 2, 4),
        ...     anomaly_map=torch.tensor([[[0.9, 0.8, 0.1, 0.2], [0.7, 0.3, 0.4, 0.5]]]),
        ...     gt_mask=torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 1]]]),
        ... )
        >>> metric = IAP()
        >>> metric.update(batch)
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    default_fields = ("anomaly_map", "gt_mask")

    def __init__(
        self,
        overlap: float = 0.5,
        bits: int | None = None,
        *,
        fields: Sequence[str] | None = None,
        prefix: str = "",
        strict: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(fields=fields, prefix=prefix, strict=strict, overlap=overlap, bits=bits, **kwargs)


class IAPAtRecall(AnomalibMetric, _IAPAtRecall):
    """Pixel precision at an instance recall as an anomalib metric, logged as ``IAP@90`` for ``recall=0.9``.

    Args:
        recall: Fraction k of the instances that must be found, in [0, 1].
        overlap: Fraction of a region that must be exceeded for it to count as found, in [0, 1).
        bits: ``None`` for an exact figure, or the leading bits of a float32 score, 10 to 24, as in :class:`IAP`.
        fields: Names of the batch's map and mask, ``("anomaly_map", "gt_mask")`` by default.
        prefix: Put before the logged name.
        strict: Whether a batch without map or mask is an error; else it is left out.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Attributes:
        bracket: Lower and upper bound of the last computed figure; both equal it if ``bits`` is ``None``.

    Raises:
        ValueError: If ``recall``, ``overlap`` or ``bits`` is out of range.

    Example:
        >>> IAPAtRecall().name, IAPAtRecall(recall=0.5, prefix="pixel_").name
        ('IAP@90', 'pixel_IAP@50')
    """

    default_fields = ("anomaly_map", "gt_mask")

    def __init__(
        self,
        recall: float = 0.9,
        overlap: float = 0.5,
        bits: int | None = None,
        *,
        fields: Sequence[str] | None = None,
        prefix: str = "",
        strict: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(
            fields=fields, prefix=prefix, strict=strict, recall=recall, overlap=overlap, bits=bits, **kwargs
        )
        self.name = f"{prefix}IAP@{100 * recall:g}"
