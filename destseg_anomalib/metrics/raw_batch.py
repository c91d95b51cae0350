# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a model returned for a batch, before anomalib's post-processor acts on it, and which metrics are to see that."""

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.metrics import PRO, AnomalibMetric
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import BinaryConfusionMatrix, BinaryStatScores

from destseg_anomalib.metrics.guest import Guest, take_off


class RawBatch(Guest):
    """Sees maps and scores before the post-processor clamps them: checks them, and in a test holds those of a batch."""

    def __init__(self) -> None:
        self.anomaly_map: torch.Tensor | None = None
        self.pred_score: torch.Tensor | None = None
        self._evaluator: Any = None
        self._visualizer: Any = None
        self._folder: str | Path | None = None

    def enter_first(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Come before all other callbacks, and note what the run will change.

        Args:
            trainer: The trainer that sets a run up.
            pl_module: The model.
        """
        others = [callback for callback in trainer.callbacks if not isinstance(callback, RawBatch)]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]  # a new list: Lightning is iterating over the old one
        self._evaluator = getattr(pl_module, "evaluator", None)
        self._visualizer = getattr(pl_module, "visualizer", None)
        self._folder = getattr(self._visualizer, "output_dir", None)

    def leave(self, trainer: Trainer) -> None:
        """Go, with the model's evaluator, and give the visualizer its folder back.

        Lightning attaches the evaluator anew in each run of its model; in a run of another model it has no business.
        anomalib's visualizer fills in the folder of its first run, and would write into that one for ever after.

        Args:
            trainer: The trainer whose run ends.
        """
        take_off(trainer, [self, self._evaluator])
        if hasattr(self._visualizer, "output_dir"):
            self._visualizer.output_dir = self._folder
        self._evaluator = self._visualizer = self._folder = None
        self.take()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object) -> None:
        """Keep references; the post-processor replaces these tensors on the batch and does not write into them."""
        del trainer, pl_module, args
        check_sizes(outputs)
        self.anomaly_map, self.pred_score = outputs.anomaly_map, outputs.pred_score

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object
    ) -> None:
        """Let thresholds be learned from maps and masks that belong together."""
        del trainer, pl_module, args
        check_sizes(outputs)

    def take(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Hand over map and score and forget them; a missing score is the highest value of the map, as in anomalib."""
        anomaly_map, pred_score = self.anomaly_map, self.pred_score
        self.anomaly_map = self.pred_score = None
        if pred_score is None and anomaly_map is not None:
            pred_score = anomaly_map.flatten(1).amax(1)
        return anomaly_map, pred_score


def check_sizes(batch: Batch) -> None:
    """Refuse maps that have another size than their masks, which anomalib compares pixel by pixel all the same.

    Args:
        batch: What a model has returned.

    Raises:
        ValueError: If the sizes differ.
    """
    if batch.anomaly_map is None or batch.gt_mask is None:
        return
    of_map, of_mask = (tuple(tensor.shape[-2:]) for tensor in (batch.anomaly_map, batch.gt_mask))
    if of_map != of_mask:
        msg = (
            f"The model's anomaly maps have {of_map[0]} x {of_map[1]} pixels, the masks {of_mask[0]} x {of_mask[1]}: "
            "give the model the size that its pre-processor resizes to, as an argument such as input_shape."
        )
        raise ValueError(msg)


def update_metrics(
    metrics: Iterable[AnomalibMetric], batch: Batch, anomaly_map: torch.Tensor | None, pred_score: torch.Tensor | None
) -> None:
    """Update test metrics with a batch: those that rank see the raw map and score, those at a threshold do not.

    Args:
        metrics: The metrics.
        batch: The batch as the post-processor left it.
        anomaly_map: Raw map.
        pred_score: Raw score.
    """
    raw = copy(batch)
    raw.anomaly_map, raw.pred_score = anomaly_map, pred_score
    for metric in metrics:
        metric.update(batch if has_threshold(metric) else raw)


def has_threshold(metric: AnomalibMetric) -> bool:
    """Tell whether a metric compares map or score with numbers in [0, 1] that were fixed beforehand.

    Args:
        metric: The metric.

    Returns:
        True for metrics at one threshold, such as `F1Score` and `PRO`, and for curves at given thresholds.
    """
    fixed = getattr(metric, "thresholds", None) is not None
    return fixed or isinstance(metric, BinaryStatScores | BinaryConfusionMatrix | PRO)


def rank_raw_values(metrics: Iterable[AnomalibMetric]) -> None:
    """Keep curves of torchmetrics, such as `AUROC`, from taking raw values for logits.

    A batch that holds a value outside [0, 1] would go through a sigmoid and another one would not: values of different
    batches then cannot be compared, and high ones become equal to 1.

    Args:
        metrics: The metrics; changed in place.
    """
    for metric in metrics:
        if getattr(metric, "normalization", None) == "sigmoid" and not has_threshold(metric):
            metric.normalization = None


def check_names(metrics: Sequence[AnomalibMetric], taken: Iterable[str]) -> None:
    """Refuse two figures of one name.

    Args:
        metrics: The metrics.
        taken: Other names that are logged.

    Raises:
        ValueError: If a name is there twice.
    """
    counts = Counter([*taken, *(metric.name for metric in metrics)])
    for name, count in counts.items():
        if count > 1:
            msg = (
                f"Two test metrics would be logged as {name}, and RawMapEvaluator logs {', '.join(sorted(taken))} "
                "by itself: leave one out of test_metrics, or give it another prefix."
            )
            raise ValueError(msg)


def empty(module: nn.Module | None) -> None:
    """Reset all metrics in a module, such as those that an interrupted epoch has left half full.

    Args:
        module: Any module, or None.
    """
    for part in module.modules() if module is not None else ():
        if isinstance(part, Metric):
            part.reset()
