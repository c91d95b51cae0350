# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""An anomalib evaluator that ranks raw anomaly maps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator, F1Score
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics.utilities import rank_zero_warn

from destseg_anomalib.metrics.curves import auroc, count_at, mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFigures, PixelFiguresMetric
from destseg_anomalib.metrics.negatives import ExactNegatives


class _RawBatch(Callback):
    """Holds what the model returned for a batch, before the post-processor normalises and clamps it."""

    anomaly_map: torch.Tensor | None = None
    pred_score: torch.Tensor | None = None

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object) -> None:
        """Keep references; the post-processor replaces these tensors on the batch and does not write into them."""
        del trainer, pl_module, args
        self.anomaly_map, self.pred_score = outputs.anomaly_map, outputs.pred_score

    def take(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Hand over map and score and forget them."""
        raw = self.anomaly_map, self.pred_score
        self.anomaly_map = self.pred_score = None
        return raw


class ImageRecord(NamedTuple):
    """What the evaluator remembers of a test image.

    Attributes:
        path: Where the image was read, or its number in the test.
        score: Raw image score, NaN if the model gave none.
        label: Whether the image is labelled anomalous, ``None`` if that is not known.
        regions: Regions of its mask, ``None`` if it has no mask.
    """

    path: str
    score: float
    label: bool | None
    regions: int | None


class RawMapEvaluator(Evaluator):
    """Evaluator for any anomalib model that ranks the maps and scores as the model returns them.

    anomalib's post-processor clamps maps to [0, 1] before its metrics see them in a test, which ties pixels that the
    model tells apart. After a test this evaluator logs, from raw maps and scores kept once in CPU memory:

    * ``image_AUROC``, ``pixel_AUROC``, ``pixel_AP``, ``pixel_AUPRO`` (false positive rate up to 0.3), ``IAP`` and
      ``IAP@90``;
    * ``pixel_F1Max``, the best F1 over all thresholds;
    * ``image_F1Score`` and ``pixel_F1Score``, which are anomalib's own at the model's threshold, and are left out where
      the model has no post-processor to set one.

    Pixel figures are left out where the data has no masks. The label of an image is the data module's, so that an
    anomalous image counts as such also when the resize of its mask loses every region. Validation logs nothing unless
    asked to.

    Args:
        bits: ``None`` for exact figures in 4 bytes of memory a pixel. With a number, background pixels are counted in a
            histogram of the leading bits of their float32 scores: memory no longer grows with the background. 18 is
            good to 1e-5 on usual maps, and ``IAP_lower``, ``IAP_upper``, ``IAP@90_lower`` and ``IAP@90_upper`` are
            logged as well, bounds that the exact figures cannot leave.
        val_metrics: Metrics to log in validation, such as one that early stopping watches.

    Example:
        In YAML, for any model:

        .. code-block:: yaml

            model:
              class_path: Patchcore
              init_args:
                evaluator:
                  class_path: destseg_anomalib.metrics.RawMapEvaluator
    """

    def __init__(
        self,
        bits: int | None = None,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
    ) -> None:
        # Labels and masks are binary by construction, and torchmetrics' check of that sorts every batch.
        options = {"strict": False, "validate_args": False}
        super().__init__(
            val_metrics=val_metrics,
            test_metrics=[
                F1Score(fields=["pred_label", "gt_label"], prefix="image_", **options),
                F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", **options),
            ],
        )
        self.pixels = PixelFiguresMetric(bits=bits)
        self.images: list[ImageRecord] = []
        self._raw = _RawBatch()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the raw batch be seen before any other callback, the post-processor among them, acts on it."""
        super().setup(trainer, pl_module, stage)
        # A new list: Lightning is iterating over the old one.
        others = [callback for callback in trainer.callbacks if not isinstance(callback, _RawBatch)]  # type: ignore[attr-defined]
        trainer.callbacks = [self._raw, *others] if stage == "test" else others  # type: ignore[attr-defined]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the trainer as it was found."""
        del pl_module, stage
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [callback for callback in callbacks if callback is not self._raw]  # type: ignore[attr-defined]

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier test, also one that was interrupted."""
        del trainer, pl_module
        self._reset()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, batch: Batch, *args: int
    ) -> None:
        """Store the raw maps and scores of a batch."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args)
        anomaly_map, pred_score = self._raw.take()
        size = batch.batch_size
        paths = batch.image_path or [str(len(self.images) + index) for index in range(size)]
        regions: Sequence[int | None] = [None] * size
        if anomaly_map is not None and batch.gt_mask is not None:
            self.pixels.update(anomaly_map, batch.gt_mask, names=paths)
            regions = [len(areas) for areas in self.pixels.areas[-size:]]
        if pred_score is None and anomaly_map is not None:
            pred_score = anomaly_map.flatten(1).amax(1)  # as anomalib's post-processor does
        scores = [math.nan] * size if pred_score is None else pred_score.flatten().tolist()
        labels = [None] * size if batch.gt_label is None else batch.gt_label.flatten().bool().tolist()
        self.images += map(ImageRecord, paths, scores, labels, regions)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log all figures, then empty the store."""
        images = self._gather_images(trainer)
        self._log(trainer, {"image_AUROC": _image_auroc(images)})
        if any(image.regions is not None for image in images):
            self._log(trainer, _named(self.pixels.compute(), bracket=self.pixels.bits is not None))
        super().on_test_epoch_end(trainer, pl_module)
        self.pixels.reset()
        self.images = []

    def _log(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """Log figures that are the same in every process."""
        for name, value in figures.items():
            if trainer.barebones:  # logging is off, as in anomalib's evaluator
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)
            else:
                self.log(name, value, sync_dist=True)

    def _gather_images(self, trainer: Trainer) -> list[ImageRecord]:
        """Records of all processes, in the order of their ranks."""
        if trainer.world_size == 1:
            return self.images
        gathered: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, self.images)
        return [image for images in gathered for image in images]

    def _reset(self) -> None:
        self.pixels.reset()
        self.images = []
        self._raw.take()
        for metric in self.test_metrics:
            metric.reset()


def _image_auroc(images: Sequence[ImageRecord]) -> float:
    """AUROC of the labelled images, NaN with a warning if one class is missing."""
    scores = np.array([image.score for image in images if image.label is not None], dtype=np.float32)
    labels = np.array([image.label for image in images if image.label is not None], dtype=bool)
    for image in images:
        if math.isnan(image.score):
            msg = f"The score of image {image.path} is NaN or missing, so images cannot be ranked; check the model."
            raise ValueError(msg)
    if not labels.any() or labels.all():
        rank_zero_warn("The test set lacks normal or anomalous images, so image_AUROC is undefined (NaN).", UserWarning)
    positives = np.sort(scores[labels])
    return auroc(count_at(np.unique(positives), positives, ExactNegatives([scores[~labels]])))


def _named(figures: PixelFigures, *, bracket: bool) -> dict[str, float]:
    """Pixel figures by the names under which they are logged."""
    curve = figures.curve
    named = {
        "pixel_AUROC": figures.auroc,
        "pixel_AP": figures.average_precision,
        "pixel_AUPRO": figures.per_region_overlap,
        "pixel_F1Max": figures.best_f1,
        "IAP": mean_precision(curve.precision),
        "IAP@90": precision_at(curve.precision, 0.9),
    }
    if bracket:
        for bound, precision in (("lower", curve.lower), ("upper", curve.upper)):
            named[f"IAP_{bound}"] = mean_precision(precision)
            named[f"IAP@90_{bound}"] = precision_at(precision, 0.9)
    return named
