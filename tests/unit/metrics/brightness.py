# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A model that needs no training: what is bright is anomalous. Run as a script, it is tested by two processes."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch, Folder, InferenceBatch
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torch import nn

from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.transforms import RoundedBilinearResize
from tests.conftest import make_part_data

SIZE = (40, 40)


class BrightnessModel(nn.Module):
    def forward(self, images: torch.Tensor) -> InferenceBatch:
        anomaly_map = 30 * nn.functional.avg_pool2d(images.mean(1, keepdim=True), 3, 1, 1)
        return InferenceBatch(anomaly_map=anomaly_map, pred_score=anomaly_map.flatten(1).mean(1))


class Brightness(AnomalibModule):
    def __init__(self, **components: Any) -> None:
        super().__init__(pre_processor=PreProcessor(transform=RoundedBilinearResize(SIZE)), **components)
        self.model = BrightnessModel()

    def validation_step(self, batch: Batch, *args: Any) -> Batch:
        return batch.update(**self.model(batch.image)._asdict())

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS


def parts(root: Path, **arguments: Any) -> Folder:
    """The folder of parts as anomalib's data module."""
    return make_part_data(root, **({"eval_batch_size": 2} | arguments))


def engine(folder: Path, **arguments: Any) -> Engine:
    """An engine that writes below the folder only."""
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=folder, **{**settings, **arguments})


if __name__ == "__main__":
    results, *roots = map(Path, sys.argv[1:])
    shared_engine = engine(results, devices=2, strategy="ddp")
    tested = Brightness(evaluator=RawMapEvaluator(), visualizer=False)
    figures = [shared_engine.test(tested, datamodule=parts(root))[0] for root in roots]
    if shared_engine.trainer.is_global_zero:
        (results / "figures.json").write_text(json.dumps(figures))
