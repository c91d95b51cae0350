# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A run is what it would be alone: an earlier one, whole or interrupted, leaves nothing to it but its files."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from brightness import SIZE, Brightness, engine, parts
from lightning.pytorch import Callback
from torch import nn
from torchmetrics import Metric

from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.transforms import RoundedBilinearResize
from tests.conftest import make_part_folder

IMAGES = {"fields": ["pred_score", "gt_label"]}
STOPS = [RuntimeError("stop"), KeyboardInterrupt()]


@pytest.fixture(autouse=True)
def signals_restored() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it was pressed."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def other_parts(tmp_path: Path) -> Path:
    """A second set of other pictures."""
    folder = make_part_folder(tmp_path / "second")
    for path in folder.rglob("test/*/*.png"):
        cv2.imwrite(str(path), cv2.GaussianBlur(255 - cv2.imread(str(path)) // 2, (5, 5), 0))
    return folder


def brightness(*_: object) -> Brightness:
    further = AUROC(**IMAGES, prefix="further_")
    return Brightness(evaluator=RawMapEvaluator(val_metrics=AUROC(**IMAGES, prefix="val_"), test_metrics=further))


def padim(folder: Path, root: Path) -> Padim:
    """A bundled model, fitted."""
    torch.manual_seed(0)
    transform = PreProcessor(transform=RoundedBilinearResize(SIZE))
    small = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False, "n_features": 8}
    model = Padim(**small, pre_processor=transform, evaluator=RawMapEvaluator())
    engine(folder).fit(model, datamodule=parts(root))
    return model


class Stopping(nn.Module):
    """Answers one batch and stops at the second."""

    def __init__(self, network: nn.Module, stop: BaseException) -> None:
        super().__init__()
        self.network, self.stop, self.calls = network, stop, 0

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        self.calls += 1
        if self.calls > 1:
            raise self.stop
        return self.network(images)


def interrupt(model: Any, action: Callable[[], Any], stop: BaseException) -> None:
    network, model.model = model.model, Stopping(model.model, stop)
    with pytest.raises(SystemExit if isinstance(stop, KeyboardInterrupt) else type(stop)):
        action()
    model.model = network


def outcome(model: Any, folder: Path, root: Path) -> tuple[dict[str, float], dict[str, bytes]]:
    """Learn thresholds and test; the figures and all files of the run by their place."""
    runner = engine(folder)
    runner.validate(model, datamodule=parts(root))
    (figures,) = runner.test(model, datamodule=parts(root))
    return figures, {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [brightness, padim])
@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: type(stop).__name__)
def test_after_an_interrupted_run_a_run_is_what_it_is_alone(make, stop, tmp_path, part_folder, other_parts) -> None:
    alone = outcome(make(tmp_path / "training", part_folder), tmp_path / "alone", other_parts)
    model = make(tmp_path / "training", part_folder)
    for run in (Engine.validate, Engine.test, Engine.predict):
        interrupt(model, lambda run=run: run(engine(tmp_path / "first"), model, datamodule=parts(part_folder)), stop)
    before = sorted(tmp_path.glob("first/**/*"))
    assert outcome(model, tmp_path / "then", other_parts) == alone
    assert sorted(tmp_path.glob("first/**/*")) == before
    assert len(alone[1]) == 6 + 4  # heat maps, the tables and the curve of the defects, and the operating point


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: type(stop).__name__)
def test_an_interrupted_run_keeps_no_pixel(stop, tmp_path, part_folder) -> None:
    model = brightness()
    for run in (Engine.validate, Engine.test):
        interrupt(model, lambda run=run: run(engine(tmp_path / "first"), model, datamodule=parts(part_folder)), stop)
        metrics = [part for part in model.modules() if isinstance(part, Metric)]
        states = [getattr(metric, name) for metric in metrics for name in metric._defaults]
        assert sum(map(len, (state for state in states if isinstance(state, list)))) == 0
        assert not model.evaluator.images
        assert model.evaluator._raw.anomaly_map is None


@pytest.mark.parametrize("stop", [None, *STOPS], ids=lambda stop: type(stop).__name__)
def test_what_is_not_ours_is_as_anomalibs_own_evaluator_leaves_it(stop, tmp_path, part_folder) -> None:
    """Trainer, data module, data sets and post-processor; the visualizer even as it was found."""

    def settings(callback: Callback) -> dict[str, Any]:
        return {name: value for name, value in vars(callback).items() if name not in {"log", "log_dict"}}  # Lightning's

    def left(evaluator: Evaluator) -> dict[str, Any]:
        model, data, runner = Brightness(evaluator=evaluator), parts(part_folder), engine(tmp_path / "results")
        found = settings(model.visualizer)
        runner.validate(model, datamodule=data)
        test = lambda: runner.test(model, datamodule=data)  # noqa: E731
        interrupt(model, test, stop) if stop else test()
        assert not isinstance(evaluator, RawMapEvaluator) or settings(model.visualizer) == found
        owned = {"trainer": runner.trainer, "data module": data, "test set": data.test_data, "val set": data.val_data}
        kinds = {name: {key: type(value) for key, value in vars(owner).items()} for name, owner in owned.items()}
        callbacks = [type(c) for c in runner.trainer.callbacks if not isinstance(c, Evaluator)]
        return kinds | {"callbacks": callbacks, "thresholds": model.post_processor.state_dict()}

    assert left(RawMapEvaluator()) == left(Evaluator())


def test_a_folder_of_the_users_own_stays_and_serves_every_run(tmp_path, part_folder, other_parts) -> None:
    mine = ImageVisualizer(output_dir=tmp_path / "mine")
    model = Brightness(evaluator=RawMapEvaluator(), visualizer=mine)
    for folder, root in (("first", part_folder), ("second", other_parts)):
        engine(tmp_path / folder).test(model, datamodule=parts(root))
        assert mine.output_dir == tmp_path / "mine"
        assert (tmp_path / "mine" / "instances.csv").is_file()
        assert not list((tmp_path / folder).rglob("instances.csv"))


def test_predictions_lie_in_the_folder_of_their_own_run(tmp_path, part_folder) -> None:
    model = brightness()
    engine(tmp_path / "first").test(model, datamodule=parts(part_folder))
    before = sorted(tmp_path.glob("first/**/*"))
    engine(tmp_path / "then").predict(model, data_path=part_folder / "test" / "good")
    assert sorted(tmp_path.glob("first/**/*")) == before
    assert len(list((tmp_path / "then").rglob("*.png"))) == 3


def test_another_model_in_the_same_engine_is_evaluated_by_its_own_evaluator_alone(tmp_path, part_folder) -> None:
    stock = lambda: Brightness(evaluator=Evaluator(test_metrics=AUROC(**IMAGES, prefix="stock_")), visualizer=False)  # noqa: E731
    runner = engine(tmp_path)
    runner.test(brightness(), datamodule=parts(part_folder))
    assert runner.test(stock(), datamodule=parts(part_folder))[0].keys() == {"stock_AUROC"}


def test_thresholds_are_learned_from_whole_validations_only(tmp_path, part_folder, other_parts) -> None:
    model = brightness()
    first = engine(tmp_path / "first")
    interrupt(model, lambda: first.validate(model, datamodule=parts(other_parts)), RuntimeError("stop"))
    (figures,) = engine(tmp_path / "then").validate(model, datamodule=parts(part_folder))
    alone = brightness()
    assert engine(tmp_path / "alone").validate(alone, datamodule=parts(part_folder))[0] == figures
    for name, value in alone.post_processor.state_dict().items():
        assert np.array_equal(value, model.post_processor.state_dict()[name], equal_nan=True), name
