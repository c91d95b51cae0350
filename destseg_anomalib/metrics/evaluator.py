# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""An anomalib evaluator that ranks raw anomaly maps."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import anomalib.metrics
import numpy as np
import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torchmetrics import Metric

from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFigures, PixelFiguresMetric, bits_for
from destseg_anomalib.metrics.images import (
    ImageRecord,
    ground_truth_notes,
    image_auroc,
    image_names,
    image_records,
    mask_files,
    of_all_processes,
)
from destseg_anomalib.metrics.raw_batch import RawBatch, check_names, empty, rank_raw_values, update_metrics
from destseg_anomalib.metrics.report import write_report
from destseg_anomalib.metrics.verdict_table import folder_of_heat_maps, report_operating_point, say_where
from destseg_anomalib.metrics.verdicts import Verdict, verdicts

logger = logging.getLogger(__name__)


FIGURES = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_F1Max", "IAP", "IAP@90")
BOUNDS = ("IAP_lower", "IAP_upper", "IAP@90_lower", "IAP@90_upper")


class F1Score(anomalib.metrics.F1Score):
    """anomalib's F1 score at a threshold, but NaN where the ground truth holds nothing to be found, and not 0."""

    def compute(self) -> torch.Tensor:
        """Compute the score, float32 in [0, 1], a scalar."""
        return torch.where(self.tp + self.fn > 0, super().compute(), torch.nan)


class RawMapEvaluator(Evaluator):
    """Evaluator for any anomalib model that ranks the maps and scores as the model returns them.

    anomalib's post-processor clamps maps to [0, 1] before its metrics see them in a test, which ties pixels that the
    model tells apart. After a test this evaluator logs, from raw maps and scores kept once in CPU memory:

    * ``image_AUROC``, ``pixel_AUROC``, ``pixel_AP``, ``pixel_AUPRO`` (false positive rate up to 0.3), ``pixel_F1Max``
      (best of all thresholds), ``IAP`` and ``IAP@90``;
    * ``image_F1Score`` and ``pixel_F1Score``, anomalib's own at the model's threshold, left out where there is none,
      and NaN where there is nothing to be found.

    It also writes ``instances.csv`` (every defect with its raw score and rank, found or missed at the model's
    threshold), ``iap_curve.csv`` and ``iap_curve.png`` beside the heat maps, prints what that threshold does to defects
    and good parts and writes it to ``operating_point.json``, and warns where a label contradicts its mask or where
    the resize of the masks lost regions. Pixel figures are left out where the data has no masks. The label of an image
    is the data module's, also where the resize of its mask loses every region. Validation logs nothing unless asked to.

    Further test metrics, such as anomalib's `AUPIMO`, see the raw map and score, and labels and masks as predicted;
    those at a threshold, as `has_threshold` tells, see all as the post-processor leaves it, with the threshold at 0.5.
    A metric that is never updated, since `strict=False` lets it do without its fields, is not logged.

    A run leaves nothing to the next, however it ends: the trainer's callbacks and the visualizer's folder become what
    they were, and all metrics begin empty.

    Args:
        bits: ``None`` for exact figures in 4 bytes of memory a pixel. With a number, pixels are counted in
            histograms of the leading bits of their float32 scores: memory does not grow with the pixels. 18 is
            good to 1e-5 on usual maps, and ``IAP_lower``, ``IAP_upper``, ``IAP@90_lower`` and ``IAP@90_upper`` are
            logged as well, bounds that the exact figures cannot leave. ``"auto"`` is exact up to a gibibyte.
        val_metrics: Metrics to log in validation, such as one that early stopping watches.
        test_metrics: Metrics to log in a test beside the figures above.
        compute_on_cpu: Whether these metrics are kept in CPU memory where there is one device, as in anomalib.

    Raises:
        ValueError: If `bits` is out of range, or a test metric has the name of another figure.

    Example:
        In YAML, for any model:

        .. code-block:: yaml

            model:
              class_path: Patchcore
              init_args:
                evaluator:
                  class_path: destseg_anomalib.metrics.RawMapEvaluator
                  init_args:
                    test_metrics:
                    - class_path: anomalib.metrics.AUPIMO
    """

    def __init__(
        self,
        bits: int | Literal["auto"] | None = "auto",
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
    ) -> None:
        # Labels and masks are binary, and torchmetrics' check of that sorts every batch.
        options = {"strict": False, "validate_args": False}
        at_threshold = [
            F1Score(fields=["pred_label", "gt_label"], prefix="image_", **options),
            F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", **options),
        ]
        super().__init__(val_metrics, [*at_threshold, *self.validate_metrics(test_metrics)], compute_on_cpu)
        check_names(list(self.test_metrics), FIGURES if bits is None else FIGURES + BOUNDS)
        rank_raw_values([*self.val_metrics, *self.test_metrics])
        self.chooses_bits = bits == "auto"
        self.pixels = PixelFiguresMetric(bits=None if bits == "auto" else bits)
        self.images: list[ImageRecord] = []
        self.verdicts: list[Verdict] = []
        self._raw = RawBatch()
        self._mask_files: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the raw batch be seen before any other callback, the post-processor among them, acts on it."""
        super().setup(trainer, pl_module, stage)
        self._raw.enter_first(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say where the files are."""
        say_where(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Forget what the next epoch would forget: maps are large."""
        del trainer, exception
        self._forget()
        empty(self)
        empty(getattr(pl_module, "post_processor", None))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Empty the metrics, also those that thresholds and ranges are learned from."""
        del trainer
        empty(self.val_metrics)
        empty(getattr(pl_module, "post_processor", None))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing."""
        del pl_module
        self._forget()
        empty(self.test_metrics)
        self._mask_files = mask_files(trainer)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, batch: Batch, *args: int
    ) -> None:
        """Store the raw maps and scores of a batch."""
        del outputs, args
        anomaly_map, pred_score = self._raw.take()
        update_metrics(self.test_metrics, batch, anomaly_map, pred_score)
        images = image_records(batch, pred_score, image_names(batch, trainer.global_rank, len(self.images)))
        if anomaly_map is not None and batch.gt_mask is not None:
            if self.chooses_bits and not self.images:
                self.pixels = _store_for(trainer, anomaly_map).to(self.pixels.device)
            masks, inside = batch.gt_mask.bool().cpu().flatten(0, -3), _looked_at(pl_module, batch.gt_mask.shape[-2:])
            pre_processor = getattr(pl_module, "pre_processor", None)
            self.pixels.update(anomaly_map, masks, [image.path for image in images], inside)
            images = [
                image.with_mask(mask, self._mask_files.get(image.path), len(areas), inside, pre_processor)
                for image, mask, areas in zip(images, masks.numpy(), self.pixels.areas[-len(images) :], strict=True)
            ]
        self.images += images
        self.verdicts += verdicts(batch, min_area=getattr(getattr(pl_module, "post_processor", None), "min_area", 1))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log all figures, say what is odd about the ground truth, and write the instance report."""
        images, said = of_all_processes(trainer, self.images), of_all_processes(trainer, self.verdicts)
        _log(self, trainer, {"image_AUROC": image_auroc(images)})
        if any(image.regions is not None for image in images):
            figures = self.pixels.compute()
            _log(self, trainer, _named(figures, bracket=self.pixels.bits is not None))
            if trainer.is_global_zero and figures.regions.scores.size and not trainer.barebones:
                write_report(folder_of_heat_maps(trainer, pl_module), images, figures, said)
        _log(self, trainer, {metric.name: metric for metric in self.test_metrics if metric.update_called})
        if trainer.is_global_zero:
            report_operating_point(trainer, pl_module, images, said)
            for note in ground_truth_notes(images, distributed=trainer.world_size > 1):
                logger.warning(note)
        self._forget()

    def _forget(self) -> None:
        """Empty the store; metrics that were logged are read by Lightning after this."""
        self.pixels.reset()
        self.images, self.verdicts, self._mask_files = [], [], {}
        self._raw.take()


def _log(evaluator: Evaluator, trainer: Trainer, figures: Mapping[str, float | Metric]) -> None:
    """Log figures that are the same in every process, and metrics that bring their processes together."""
    for name, value in figures.items():
        if trainer.barebones:  # logging is off: set the values by hand, as anomalib's evaluator does
            figure = value.compute() if isinstance(value, Metric) else torch.tensor(value)
            trainer.callback_metrics[name] = trainer.logged_metrics[name] = figure
        else:
            evaluator.log(name, value, sync_dist=True)


def _store_for(trainer: Trainer, first: torch.Tensor) -> PixelFiguresMetric:
    """Make the store that suits the maps of a test, of which the first batch is known."""
    pixels = int(trainer.num_test_batches[0]) * trainer.world_size * first.numel()
    bits = trainer.strategy.broadcast(bits_for(pixels))
    if bits is not None:
        logger.info(
            "The maps of this test have about %d million pixels: they are counted by the first %d bits of their scores "
            "instead of kept, and bounds of IAP and IAP@90 are logged beside them.",
            pixels // 10**6,
            bits,
        )
    return PixelFiguresMetric(bits=bits)


def _looked_at(pl_module: LightningModule, size: torch.Size) -> NDArray[np.bool_] | None:
    """Which pixels count for a model that has regions to look at."""
    regions: Any = getattr(getattr(pl_module, "model", None), "regions", None)
    return None if regions is None else regions.at(size).cpu().numpy()


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
