# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a prediction leaves: a list of pictures and a list of defects, beside the heat maps."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from anomalib.data import Batch
from anomalib.utils.path import create_versioned_dir
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningModule, Trainer

from destseg_anomalib.deployment.defects import Defect, list_defects
from destseg_anomalib.metrics.guest import Guest
from destseg_anomalib.metrics.images import image_names, of_all_processes
from destseg_anomalib.metrics.last_line import say
from destseg_anomalib.metrics.picture_pixels import picture_size


class Prediction(NamedTuple):
    """What a model says of one picture.

    Attributes:
        picture: Its path, or a name of its own.
        score: Anomaly score as the post-processor leaves it, ``None`` without one.
        bad: The verdict, ``None`` where the model does not judge.
        defects: Predicted regions, ``None`` where it predicts no pixels.
    """

    picture: str
    score: float | None
    bad: bool | None
    defects: list[Defect] | None


class PredictionLists(Guest):
    """Writes ``predictions.csv`` and ``defects.csv`` of each prediction, into a folder of its own.

    The folder is ``predictions/v0``, ``v1``, … in the folder that anomalib gives the run, and ``predictions/latest``
    leads to the newest. Heat maps go there as well, unless the visualizer has a folder of the user's.
    """

    def __init__(self) -> None:
        self._predictions: list[Prediction] = []
        self._folder: Path | None = None
        self._visualizer: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the folder, for models that judge."""
        self._predictions, self._folder = [], None
        if getattr(pl_module, "post_processor", None) is None or trainer.barebones:
            return
        root = Path(trainer.default_root_dir) / "predictions"
        self._folder = trainer.strategy.broadcast(create_versioned_dir(root) if trainer.is_global_zero else root)
        visualizer = getattr(pl_module, "visualizer", None)
        if getattr(visualizer, "output_dir", "") is None:
            self._visualizer = visualizer
            self._visualizer.output_dir = self._folder / "images"

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object, **kwargs: object
    ) -> None:
        """Note what the post-processor has said of a batch."""
        del args, kwargs
        if self._folder is not None:
            names = image_names(outputs, trainer.global_rank, len(self._predictions))
            self._predictions += _predictions(outputs, names, pl_module)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the lists, and say where they are."""
        del pl_module
        if self._folder is None:
            return
        predictions = of_all_processes(trainer, self._predictions)
        if trainer.is_global_zero:
            write_lists(predictions, self._folder)
            say(_summary(predictions, self._folder))

    def leave(self, trainer: Trainer) -> None:
        """Go, and give the visualizer its folder back."""
        super().leave(trainer)
        if self._visualizer is not None:
            self._visualizer.output_dir = None
        self._predictions, self._folder, self._visualizer = [], None, None


class ListedPredictions:
    """Mixin for an anomalib model whose predictions leave lists, and outlines of the defects in the heat maps."""

    trainer: Trainer

    def setup(self, stage: str) -> None:
        """Have lists written."""
        super().setup(stage)  # type: ignore[misc]
        if stage == "predict":
            PredictionLists().enter(self.trainer)

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Make the default visualizer: anomalib's, with an outline around what is predicted in the heat map, too."""
        return ImageVisualizer(overlay_fields=[("image", ["anomaly_map", "pred_mask"]), ("image", ["pred_mask"])])


def _predictions(batch: Batch, names: list[str], pl_module: LightningModule) -> list[Prediction]:
    count = batch.batch_size
    scores = [None] * count if batch.pred_score is None else batch.pred_score.flatten().tolist()
    bad = [None] * count if batch.pred_label is None else batch.pred_label.flatten().bool().tolist()
    defects: list[list[Defect] | None] = [None] * count
    if batch.pred_mask is not None and batch.anomaly_map is not None:
        masks, maps = (
            tensor.cpu().reshape(count, *tensor.shape[-2:]).contiguous().numpy()
            for tensor in (batch.pred_mask.bool(), batch.anomaly_map.float())
        )
        min_area = getattr(pl_module.post_processor, "min_area", 1)
        sizes = [picture_size(name, getattr(pl_module, "pre_processor", None)) for name in names]
        defects = [
            list_defects(mask, anomaly_map, size, min_area)
            for mask, anomaly_map, size in zip(masks, maps, sizes, strict=True)
        ]
    return list(map(Prediction, names, scores, bad, defects))


def write_lists(predictions: list[Prediction], folder: Path) -> None:
    """Write ``predictions.csv`` and ``defects.csv``.

    Args:
        predictions: What a model says of each picture.
        folder: Where; it is there.
    """
    rows = [
        {
            "picture": each.picture,
            "score": each.score,
            "verdict": None if each.bad is None else "bad" if each.bad else "good",
            "defects": None if each.defects is None else len(each.defects),
        }
        for each in predictions
    ]
    table = pd.DataFrame(rows, columns=["picture", "score", "verdict", "defects"])
    table.astype({"defects": "Int64"}).to_csv(folder / "predictions.csv", index=False)
    found = [(each.picture, *defect) for each in predictions for defect in each.defects or ()]
    pd.DataFrame(found, columns=["picture", *Defect._fields]).to_csv(folder / "defects.csv", index=False)


def _summary(predictions: list[Prediction], folder: Path) -> str:
    bad = sum(bool(each.bad) for each in predictions)
    defects = sum(len(each.defects or ()) for each in predictions)
    return (
        f"{bad} of {len(predictions)} pictures are bad, with {defects} defects in all: predictions.csv and defects.csv "
        f"in {folder}"
    )
