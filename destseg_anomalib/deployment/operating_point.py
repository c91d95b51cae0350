# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A post-processor whose threshold keeps a promise, for any anomalib model that makes maps."""

import logging
from typing import Any

from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer

from destseg_anomalib.data.reading import data_of
from destseg_anomalib.deployment.calibration import Calibration, raw_maps
from destseg_anomalib.deployment.judging import judge
from destseg_anomalib.deployment.learned_scores import LearnedScores
from destseg_anomalib.deployment.prediction_lists import PredictionLists
from destseg_anomalib.deployment.promises import Promise
from destseg_anomalib.metrics.evaluator import RawMapEvaluator
from destseg_anomalib.metrics.verdict_table import VerdictTable

logger = logging.getLogger(__name__)


class OperatingPoint(PostProcessor):
    """Threshold for parts and pixels that is chosen by what it promises.

    A part is bad if a region of its anomaly map (corners included) at or above the threshold has at least `min_area`
    pixels; its score is the highest threshold at which it is bad, with ``min_area=1`` the highest pixel of the map.
    Pixels are predicted at the same threshold. Maps and scores are normalised alike, to [0, 1]: 0.5 is the threshold,
    which no value equals, so that `>` and `>=` agree.

    The scores that a validation shows, of its defects (as of IAP: the highest threshold at which more than half of the
    region is found) and of its good parts, are stored in the checkpoint. A model that is made from there with another
    promise gets the threshold that it would have had from the start, without an image. `min_area` stays the
    checkpoint's, as scores depend on it. Good parts that set the point must not have trained the model, and what tells
    how well it works are other parts again.

    ONNX and OpenVINO files give the same verdicts. With `min_area` above 1 the score of a part there is that of its
    `min_area`-th highest pixel, kept on the verdict's side of 0.5, and the graph grows by `min_area` poolings.

    Args:
        instance_recall: Share of the defects of the validation that is found, in (0, 1].
        false_alarms: Share of *good* parts that may raise an alarm, in (0, 1), on average over draws of parts from the
            same production. n good parts in the validation allow 1 / (n + 1) or more.
        min_area: Pixels of the map that a defect has at least.

    Raises:
        ValueError: If not exactly one promise is given, or a number is out of range.

    Example:
        In YAML, for any model that makes maps:

        .. code-block:: yaml

            model:
              class_path: Padim
              init_args:
                post_processor:
                  class_path: destseg_anomalib.OperatingPoint
                  init_args:
                    false_alarms: 0.05
    """

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
        self.learned = LearnedScores()
        self._calibration = Calibration()
        self.register_load_state_dict_post_hook(OperatingPoint._set_point)

    def _set_point(self, *_: object) -> None:
        for buffer in (self._image_threshold, self._pixel_threshold):
            buffer.fill_(self.learned.threshold(self.promise))

    def checkpoint_config(self) -> dict[str, Any]:
        """Say how it was made, for a checkpoint."""
        return {**self.promise._asdict(), "min_area": self.min_area}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Take `min_area` of what `checkpoint_config` has stored; the promise stays the one that was given."""
        stored = config.get("min_area", self.min_area)
        if self.min_area not in {stored, 1}:  # nobody need have given the default
            logger.warning(
                "min_area=%s is the checkpoint's, not %s: the scores of its validation depend on it, so train or "
                "validate anew for another one.",
                stored,
                self.min_area,
            )
        self.min_area = stored

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have a prediction leave lists, and a test a table, whatever the model."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            PredictionLists().enter(trainer)
        elif stage == "test" and not isinstance(getattr(pl_module, "evaluator", None), RawMapEvaluator):
            VerdictTable().enter(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a promise that the images for validation cannot carry, before a training that would be in vain."""
        del pl_module
        self.promise.check_table(getattr(getattr(data_of(trainer), "val_data", None), "samples", None))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing, also after an epoch that was interrupted."""
        del trainer, pl_module
        self._calibration = Calibration()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object, **kwargs: object
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
        self.learned.learn(seen)
        for lowest, highest in ((self.image_min, self.image_max), (self.pixel_min, self.pixel_max)):
            lowest.fill_(seen.span[0])
            highest.fill_(seen.span[1])
        self._set_point()
        if trainer.state.fn != "fit":
            self.learned.demand()
        elif self.learned.lacking is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            logger.warning(self.learned.lacking)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge no part without a point."""
        del trainer, pl_module
        self.learned.demand()

    on_predict_start = on_test_start

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Judge raw maps, as `judge` says; this is what an exported model does."""
        self.learned.demand()
        span = self.pixel_max - self.pixel_min
        return judge(raw_maps(predictions), self._pixel_threshold, span, self.min_area)

    def post_process_batch(self, batch: Batch) -> None:
        """Replace map, score, label and mask of a batch by what `forward` says.

        Raises:
            ValueError: If a map holds NaN, with the names of the batch's images.
        """
        if raw_maps(batch).isnan().any():
            msg = f"An anomaly map among those of {batch.image_path} holds NaN, so no part is judged: check the model."
            raise ValueError(msg)
        judged = self(InferenceBatch(anomaly_map=batch.anomaly_map, pred_score=None, pred_label=None, pred_mask=None))
        for name, value in judged._asdict().items():
            setattr(batch, name, value)
