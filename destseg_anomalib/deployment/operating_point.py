# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A post-processor whose threshold keeps a promise, for any anomalib model that makes maps."""

import logging
from typing import Any

import numpy as np
import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer

from destseg_anomalib.data.reading import data_of
from destseg_anomalib.deployment.calibration import Calibration, raw_maps
from destseg_anomalib.deployment.part_score import has_region_in_graph, part_scores
from destseg_anomalib.deployment.promises import NEVER_SET, Promise

logger = logging.getLogger(__name__)

# The numbers next to 0.5 in float32, so that ">" and ">=" say the same of whatever is compared with 0.5.
BELOW, ABOVE = (float(np.nextafter(np.float32(0.5), np.float32(end))) for end in (0, 1))


class OperatingPoint(PostProcessor):
    r"""Threshold for parts and pixels that is chosen by what it promises.

    A part is bad if a region of its anomaly map (corners included) at or above the threshold has at least `min_area`
    pixels; its score is the highest threshold at which it is bad, with ``min_area=1`` the highest pixel of the map.
    Pixels are predicted at the same threshold. Maps and scores are normalised alike, to [0, 1]: 0.5 is the threshold,
    which no value equals, so that `>` and `>=` agree.

    Both kinds of numbers that a validation can show, the scores of its defects (IAP's rule: the highest threshold at
    which more than half of the region is found) and the scores of its good parts, are stored in the checkpoint. A
    model that is tested, used for predictions or exported from there with another promise gets the threshold that it
    would have had from the start; no image is needed. `min_area` is the checkpoint's, as scores depend on it.

    What judges parts at `false_alarms` must not have trained the model, and what tells how well that works must be
    other parts again: validation images that are the test images, as in most benchmarks, have seen the test.

    In ONNX and OpenVINO files the verdicts are the same. With `min_area` above 1 the score of a part there is that of
    its `min_area`-th highest pixel, kept on the verdict's side of 0.5, and the graph grows by `min_area` poolings.

    Args:
        instance_recall: Share of the defects of the validation that is found, in (0, 1].
        false_alarms: Share of *good* parts that may raise an alarm, in (0, 1), on average over draws of parts from the
            same production. n good parts in the validation allow 1 / (n + 1) or more.
        min_area: Pixels of the map that a defect has at least.

    Attributes:
        scores_of_defects: Float32 ``(R,)``, ascending, of the raw maps of the last validation.
        scores_of_good_parts: Float32 ``(n,)``, ascending, likewise.

    Raises:
        ValueError: If not exactly one promise is given, or a number is out of range.

    Example:
        In YAML, for any model, and to move the point of a checkpoint on the command line:

        .. code-block:: yaml

            model:
              class_path: Padim
              init_args:
                post_processor:
                  class_path: destseg_anomalib.OperatingPoint
                  init_args:
                    false_alarms: 0.05

        .. code-block:: bash

            anomalib test --model DeSTSeg --ckpt_path model.ckpt --data DemoSurfaces \
                --model.post_processor destseg_anomalib.OperatingPoint --model.post_processor.instance_recall 0.9
    """

    scores_of_defects: torch.Tensor
    scores_of_good_parts: torch.Tensor

    def __init__(
        self, instance_recall: float | None = None, false_alarms: float | None = None, min_area: int = 1
    ) -> None:
        super().__init__()
        self.promise = Promise(instance_recall, false_alarms)
        self.promise.check()
        if min_area < 1:
            msg = f"min_area={min_area} must be at least 1, in pixels of the map."
            raise ValueError(msg)
        self.min_area = min_area
        self.register_buffer("scores_of_defects", torch.empty(0))
        self.register_buffer("scores_of_good_parts", torch.empty(0))
        self._lacking: str | None = NEVER_SET
        self._calibration = Calibration()

    def checkpoint_config(self) -> dict[str, Any]:
        """Say how it was made, for a checkpoint.

        Returns:
            Its arguments.
        """
        return {**self.promise._asdict(), "min_area": self.min_area}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Take `min_area` of a checkpoint; the promise stays the one that was given.

        Args:
            config: What `checkpoint_config` of the stored post-processor said.
        """
        stored = config.get("min_area", self.min_area)
        if stored != self.min_area:
            if self.min_area != 1:  # the default, which nobody need have given
                logger.warning(
                    "min_area=%s is the checkpoint's, not %s: the scores of its validation depend on it, so train or "
                    "validate anew for another one.",
                    stored,
                    self.min_area,
                )
            self.min_area = stored

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take as many scores as there are, or none from a checkpoint without, and set the point."""
        for name in ("scores_of_defects", "scores_of_good_parts"):
            stored = state_dict.setdefault(prefix + name, torch.empty(0))
            self._keep(name, stored)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._set_point()

    def _keep(self, name: str, values: torch.Tensor) -> None:
        # Not as a tensor of inference mode, into which no checkpoint could be read later.
        with torch.inference_mode(mode=False):
            setattr(self, name, values.to(self._pixel_threshold.device, torch.float32, copy=True))

    def _set_point(self) -> None:
        """Set the threshold of the promise, or note what it lacks."""
        self._lacking, threshold = None, np.float32(np.nan)
        try:
            threshold = self.promise.threshold(
                self.scores_of_defects.cpu().numpy(), self.scores_of_good_parts.cpu().numpy()
            )
        except ValueError as error:
            self._lacking = str(error)
        for buffer in (self._image_threshold, self._pixel_threshold):
            buffer.fill_(float(threshold))

    def _demand_point(self) -> None:
        if self._lacking is not None:
            raise ValueError(self._lacking)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a promise that the images for validation cannot carry, before a training that would be in vain."""
        del pl_module
        datamodule = data_of(trainer)
        table = getattr(getattr(datamodule, "val_data", None), "samples", None)
        if table is None or "label_index" not in table:
            return
        bad = table.label_index == 1
        if "mask_path" in table:
            bad &= table.mask_path.fillna("") != ""
        self.promise.check_images(good=int((table.label_index == 0).sum()), bad=int(bad.sum()))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing, also after an epoch that was interrupted."""
        del trainer, pl_module
        self._calibration = Calibration()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Note the scores of good parts and of defects, as `Calibration.note` says."""
        del pl_module, args, kwargs
        self._calibration.note(outputs, self.min_area, trainer.global_rank)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn from what all devices have seen, and set the point.

        Raises:
            ValueError: Outside of a training, if the images cannot carry the promise. A training goes on, so that its
                checkpoint holds what a smaller promise needs.
        """
        del pl_module
        seen, self._calibration = self._calibration.gather(trainer), Calibration()
        if trainer.sanity_checking or not seen.images:
            return
        self._keep("scores_of_defects", seen.defects)
        self._keep("scores_of_good_parts", seen.good_parts)
        for buffer, value in zip((self.pixel_min, self.pixel_max), seen.span, strict=True):
            buffer.fill_(value)
        self.image_min.copy_(self.pixel_min)
        self.image_max.copy_(self.pixel_max)
        self._set_point()
        if trainer.state.fn != "fit":
            self._demand_point()
        elif self._lacking is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            logger.warning(self._lacking)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge no part without a point."""
        del trainer, pl_module
        self._demand_point()

    on_predict_start = on_test_start

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Judge raw predictions; this is what an exported model does.

        Args:
            predictions: With raw ``anomaly_map`` ``(N, 1, H, W)`` or ``(N, H, W)``; a score is not looked at.

        Returns:
            Normalised ``anomaly_map`` of the same shape and ``pred_score`` ``(N,)``, float32 in [0, 1], and boolean
            ``pred_mask`` and ``pred_label`` of these shapes.

        Raises:
            ValueError: If there is no map, or the point has not been set.
        """
        self._demand_point()
        maps, threshold = raw_maps(predictions), self._pixel_threshold
        masks = maps >= threshold
        if self.min_area > 1 and torch.compiler.is_compiling():
            bad = has_region_in_graph(masks.flatten(0, -3), self.min_area)
            scores = maps.flatten(1).topk(self.min_area).values[:, -1]
        else:
            scores = part_scores(maps, self.min_area)
            bad = scores >= threshold
        return InferenceBatch(
            pred_score=self._to_unit(scores, bad),
            pred_label=bad,
            anomaly_map=self._to_unit(maps, masks),
            pred_mask=masks,
        )

    def post_process_batch(self, batch: Batch) -> None:
        """Judge the raw predictions of a test or prediction.

        Args:
            batch: As `forward` takes it; map, score, label and mask are replaced.

        Raises:
            ValueError: If a map holds NaN, with the names of the batch's images.
        """
        if raw_maps(batch).isnan().any():
            msg = f"An anomaly map among those of {batch.image_path} holds NaN, so no part is judged: check the model."
            raise ValueError(msg)
        judged = self(InferenceBatch(anomaly_map=batch.anomaly_map, pred_score=None, pred_label=None, pred_mask=None))
        for name, value in judged._asdict().items():
            setattr(batch, name, value)

    def _to_unit(self, values: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
        """Normalise raw values, of which some have reached the threshold, with 0.5 between these and the others."""
        span = self.pixel_max - self.pixel_min
        unit = ((values - self._pixel_threshold) / torch.where(span > 0, span, 1.0) + 0.5).clamp(0, 1)
        # Near the threshold a difference may be too small to change 0.5 in float32.
        return torch.where(reached, unit.clamp(min=ABOVE), unit.clamp(max=BELOW))
