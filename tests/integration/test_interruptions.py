# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a training, a test or a prediction puts on objects of others is gone when it ends, however it ends."""

from typing import Any

import pytest
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.metrics import AUROC
from anomalib.metrics import Evaluator as AnomalibEvaluator
from anomalib.models import Padim
from lightning.pytorch import Callback

from destseg_anomalib import DeSTSeg
from destseg_anomalib.synthesis.perlin import _angle_table, _axis_table, perlin_masks
from tests.integration.conftest import STEPS, TINY, Bench

SMALL_PADIM = {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1"], "n_features": 10}


class Interrupt(Callback):
    """Ends a stage in its first batch, by an exception or as Ctrl-C does."""

    def __init__(self, how: type[BaseException]) -> None:
        self.how = how

    def on_train_batch_end(self, *args: Any) -> None:
        raise self.how

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end = on_train_batch_end


class Seen(Callback):
    """Counts the images that a model is trained on."""

    images = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.images += len(batch.image)


def engine(bench: Bench, *callbacks: Callback) -> Engine:
    made = bench.engine()
    made._cache.args["callbacks"] += callbacks
    return made


def state(trainer: Any, data: AnomalibDataModule | None) -> dict[str, Any]:
    """Attributes of what is not ours, and how the loops and the strategy are set."""
    found = {
        "max_epochs": trainer.fit_loop.max_epochs,
        "checkpoint_io": type(trainer.strategy.checkpoint_io),
    }
    if data is not None:
        found["data module"] = sorted(vars(data).keys() - {"_hparams"})  # of Lightning's own
        found["data sets"] = [sorted(vars(data_set)) for data_set in (data.train_data, data.val_data, data.test_data)]
        found["source"] = trainer.fit_loop._data_source.instance is data
    return found


def run(bench: Bench, stage: str, data: AnomalibDataModule, *callbacks: Callback) -> Any:
    made = engine(bench, *callbacks)
    if stage == "fit":
        made.fit(DeSTSeg(**TINY, **STEPS), datamodule=data)
    elif stage == "test":
        made.test(bench.model, datamodule=data, ckpt_path=bench.checkpoint, verbose=False)
    else:
        made.predict(bench.model, datamodule=data, ckpt_path=bench.checkpoint)
    return made.trainer


class Noted(Callback):
    """Notes what everything is like before a model has prepared anything."""

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        self.found = state(trainer, trainer.datamodule)


@pytest.mark.parametrize("how", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_what_is_not_ours_is_as_it_was(bench: Bench, stage: str, how: type[BaseException] | None) -> None:
    data, noted = bench.data(), Noted()
    if how is not None:
        with pytest.raises((how, SystemExit)):  # Lightning ends the program after Ctrl-C
            run(bench, stage, data, noted, Interrupt(how))
    else:
        run(bench, stage, data, noted)
    assert state(data.trainer, data) == noted.found
    assert not [c for c in data.trainer.callbacks if type(c).__module__.startswith("destseg_anomalib")]
    assert noted.found["data sets"]


def test_the_next_model_trains_on_its_own_images_though_ours_was_interrupted(bench: Bench) -> None:
    data, alone, after = bench.data(), Seen(), Seen()
    engine(bench, alone).fit(Padim(**SMALL_PADIM), datamodule=bench.data())
    with pytest.raises(RuntimeError):
        engine(bench, Interrupt(RuntimeError)).fit(DeSTSeg(**TINY, student_steps=50), datamodule=data)
    engine(bench, after).fit(Padim(**SMALL_PADIM), datamodule=data)
    assert alone.images == after.images == 8


def test_two_trainings_on_one_data_module_give_what_each_gives_alone(bench: Bench) -> None:
    def train(data: Any, size: int, segmentation: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        arguments = TINY | STEPS | {"image_size": (size, size), "segmentation": segmentation}
        model = DeSTSeg(**arguments)
        bench.engine().fit(model, datamodule=data)
        return model.state_dict()

    shared = bench.data()
    for size, segmentation in ((32, False), (64, True), (32, True)):
        alone, together = train(bench.data(), size, segmentation), train(shared, size, segmentation)
        assert all(torch.equal(value.nan_to_num(), together[name].nan_to_num()) for name, value in alone.items())


def test_anomalies_are_the_same_after_another_default_dtype() -> None:
    """The noise has tables that are made once and kept."""
    tables = _axis_table, _angle_table
    for table in tables:
        table.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        perlin_masks(2, (23, 23), torch.Generator().manual_seed(0))
    finally:
        torch.set_default_dtype(torch.float32)
    kept = perlin_masks(2, (23, 23), torch.Generator().manual_seed(0))
    for table in tables:
        table.cache_clear()
    assert torch.equal(kept, perlin_masks(2, (23, 23), torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("second", ["new", "loaded", "same"])
def test_an_engine_that_has_trained_says_so_instead_of_training_nothing(bench: Bench, second: str) -> None:
    used, model = bench.engine(), DeSTSeg(**TINY, **STEPS)
    used.fit(model, datamodule=bench.data())
    again = {"new": lambda: DeSTSeg(**TINY, **STEPS), "same": lambda: model}.get(
        second, lambda: DeSTSeg.load_from_checkpoint(bench.checkpoint)
    )()
    with pytest.raises(ValueError, match=r"has taken 2 steps before .*: make a new Engine for each training"):
        used.fit(again, datamodule=bench.data())


@pytest.mark.parametrize(
    "evaluator", [True, False, AnomalibEvaluator(test_metrics=[AUROC(["pred_score", "gt_label"])])]
)
def test_a_validation_and_a_test_measure_nothing_of_one_that_was_interrupted(bench: Bench, evaluator: Any) -> None:
    def thresholds(model: DeSTSeg, *interrupted: str) -> tuple[list[float], Any]:
        for stage in interrupted:
            with pytest.raises(RuntimeError):
                getattr(engine(bench, Interrupt(RuntimeError)), stage)(
                    model, datamodule=bench.data(normal_test_dir=None)
                )
        bench.engine().validate(model, datamodule=bench.data())
        post = model.post_processor
        return [post.pixel_min.item(), post.pixel_max.item()], bench.engine().test(model, datamodule=bench.data())

    alone = thresholds(DeSTSeg.load_from_checkpoint(bench.checkpoint, evaluator=evaluator))
    after = thresholds(DeSTSeg.load_from_checkpoint(bench.checkpoint, evaluator=evaluator), "validate", "test")
    assert after == alone


@pytest.mark.parametrize("how", [None, RuntimeError])
def test_a_model_keeps_no_training_images_after_its_training(bench: Bench, how: type[BaseException] | None) -> None:
    model = DeSTSeg(**TINY, **STEPS)
    if how is None:
        bench.engine().fit(model, datamodule=bench.data())
    else:
        with pytest.raises(how):
            engine(bench, Interrupt(how)).fit(model, datamodule=bench.data())
    assert model.images is None
    assert model.generator is None
