# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint is all that a prediction needs, and every checkpoint that a training writes can be used."""

import datetime as dt
import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException

from destseg_anomalib import DeSTSeg, PFADSeg
from tests.integration.conftest import STEPS, TINY, Bench, expect

OTHER = {"top_t": 5, "image_size": (40, 32)}
OF_MODEL = {
    DeSTSeg: TINY | {"segmentation_input": "cosine"} | OTHER,
    PFADSeg: {"backbone": "test_resnet", "pre_trained": False, "aff": False, "pcar": False} | OTHER,
}


def trained(bench: Bench, model: Any, **engine: Any) -> Engine:
    made = bench.engine()
    made._cache.args.update(engine)
    made.fit(model, datamodule=bench.data())
    return made


def scores(bench: Bench, model: Any, **kwargs: Any) -> list[float]:
    batches = bench.engine().predict(model, data_path=bench.parts / "test/hole", **kwargs)
    return [score for batch in batches for score in (*batch.pred_score.tolist(), batch.anomaly_map.sum().item())]


@pytest.mark.parametrize("model_class", [DeSTSeg, PFADSeg])
def test_nothing_but_the_checkpoint_decides_what_is_predicted(bench: Bench, model_class: type, caplog) -> None:
    seed_everything(0, verbose=False)
    model = model_class(**OF_MODEL[model_class], **STEPS)
    path = trained(bench, model).best_model_path
    expected = scores(bench, model)
    figures = bench.engine().test(model, datamodule=bench.data(), verbose=False)
    with caplog.at_level(logging.WARNING):
        assert scores(bench, model_class(), ckpt_path=path) == expected
        assert scores(bench, model_class.load_from_checkpoint(path)) == expected
        assert bench.engine().test(model_class(), datamodule=bench.data(), ckpt_path=path, verbose=False) == figures
    assert "given beside it" not in caplog.text


def test_an_argument_that_contradicts_the_checkpoint_is_named_in_one_warning(bench: Bench, caplog) -> None:
    given = DeSTSeg(
        **(TINY | {"backbone": "resnet18", "image_size": (48, 48)}),
        top_t=7,
        post_processor=PostProcessor(pixel_sensitivity=0.8),
    )
    with caplog.at_level(logging.WARNING):
        expected = scores(bench, bench.model)
        assert scores(bench, given, ckpt_path=bench.checkpoint) == expected
    [warning] = [record.getMessage() for record in caplog.records if "given beside it" in record.getMessage()]
    for name in (
        "backbone='resnet18' (the checkpoint has 'test_resnet')",
        "top_t=7 (the checkpoint has None)",
        "image_size=(48, 48) (the checkpoint has (32, 32))",
        "post_processor.pixel_sensitivity=0.8 (the checkpoint has 0.5)",
    ):
        assert name in warning
    assert "student_steps" not in warning


def test_a_size_that_contradicts_the_stored_transform_is_named_and_not_believed(bench: Bench, caplog) -> None:
    model = DeSTSeg.load_from_checkpoint(bench.checkpoint, image_size=(48, 48), top_t=3)
    assert model.hparams.image_size == tuple(model.input_size) == (32, 32)
    assert model.model.top_t == 3, "in Python an argument is given to be followed where it can be"
    assert caplog.text.count("Images are brought to the size of the checkpoint, (32, 32), and not to (48, 48).") == 1


def test_thresholds_find_their_place_or_one_sentence_says_why_not(bench: Bench, caplog) -> None:
    without = DeSTSeg(**TINY, post_processor=False)
    sentence = "^The checkpoint has thresholds, for which .*: leave out post_processor=False"
    expect(sentence, lambda: scores(bench, without, ckpt_path=bench.checkpoint))
    scores(bench, DeSTSeg(post_processor=MEBinPostProcessor()), ckpt_path=bench.checkpoint)
    assert "made with PostProcessor, but DeSTSeg has MEBinPostProcessor, which judges otherwise" in caplog.text


def test_a_model_without_post_processor_is_asked_as_it_was_trained(bench: Bench) -> None:
    path = trained(bench, model := DeSTSeg(**TINY, **STEPS, post_processor=False)).best_model_path
    batches = bench.engine().predict(model, data_path=bench.parts / "test/hole")
    again = bench.engine().predict(DeSTSeg(), data_path=bench.parts / "test/hole", ckpt_path=path)
    assert [batch.pred_label for batch in again] == [batch.pred_label for batch in batches] == [None] * 3
    assert torch.equal(torch.cat([b.pred_score for b in again]), torch.cat([b.pred_score for b in batches]))


def test_a_checkpoint_that_is_stored_after_a_test_knows_its_training(bench: Bench, caplog) -> None:
    engine = bench.engine()
    engine.test(DeSTSeg(), datamodule=bench.data(), ckpt_path=bench.checkpoint, verbose=False)
    engine.trainer.save_checkpoint(bench.folder / "again.ckpt")
    assert scores(bench, DeSTSeg(), ckpt_path=bench.folder / "again.ckpt") == scores(bench, bench.model)
    assert "phase 1" not in caplog.text


def test_a_network_that_a_compiler_wraps_trains_and_leaves_a_checkpoint_for_all(bench: Bench) -> None:
    bench.data = functools.partial(bench.data, eval_batch_size=6)  # or a last, short batch is compiled anew
    model = DeSTSeg(**TINY, **STEPS)
    model.model = torch.compile(model.model, backend="eager")
    path = trained(bench, model).best_model_path
    expected = scores(bench, DeSTSeg(), ckpt_path=path)
    compiled = DeSTSeg(**TINY)
    compiled.model = torch.compile(compiled.model, backend="eager")
    assert scores(bench, compiled, ckpt_path=path) == pytest.approx(expected, rel=1e-5)


class Save(Callback):
    """Stores a checkpoint after some step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_is_tested_as_it_is_also_by_the_model_that_went_on_from_it(bench: Bench) -> None:
    seed_everything(0, verbose=False)
    half, steps = bench.folder / "half.ckpt", {"student_steps": 2, "segmentation_steps": 4}
    first = bench.engine()
    first._cache.args["callbacks"].append(Save(half, 3))
    first.fit(DeSTSeg(**TINY, **steps), datamodule=bench.data())
    expected = scores(bench, DeSTSeg(), ckpt_path=half)
    model, engine = DeSTSeg(**TINY, **steps), bench.engine()
    engine.fit(model, datamodule=bench.data(), ckpt_path=half)
    final = scores(bench, model)
    assert final != expected
    assert engine.test(model, datamodule=bench.data(), ckpt_path=half, verbose=False)  # an engine's own, and a new one
    assert scores(bench, model) == scores(bench, model, ckpt_path=half) == expected
    train_and_test = bench.engine()
    train_and_test.train(model := DeSTSeg(**TINY, **steps), datamodule=bench.data(), ckpt_path=half)
    assert scores(bench, model) == final, "train tests the weights that it ended with"


class Noting(Callback):
    """A user's callback with a state of its own."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_a_checkpoint_with_numbers_of_numpy_and_a_users_dates_can_be_used(bench: Bench) -> None:
    started = {"at": dt.datetime(2026, 11, 26, tzinfo=dt.timezone.utc), "losses": np.arange(3), "best": np.float64(0.5)}
    numbers = {name: np.int64(steps) for name, steps in STEPS.items()}
    model = DeSTSeg(**(TINY | {"image_size": tuple(np.array([32, 32]))}), **numbers)
    engine = trained(bench, model, callbacks=[Noting(started)])
    assert tuple(DeSTSeg.load_from_checkpoint(engine.best_model_path).hparams.image_size) == (32, 32)
    noting, again = Noting({}), bench.engine()
    again._cache.args["callbacks"].append(noting)
    again.fit(
        DeSTSeg(**TINY, **(STEPS | {"segmentation_steps": 2})),
        datamodule=bench.data(),
        ckpt_path=engine.best_model_path,
    )
    assert noting.state["at"] == started["at"]
    assert noting.state["losses"].tolist() == [0, 1, 2]
    assert noting.state["best"] == 0.5


def test_what_cannot_be_stored_costs_its_owner_the_state_and_nobody_the_checkpoint(bench: Bench, caplog) -> None:
    engine = trained(bench, DeSTSeg(**TINY, **STEPS), callbacks=[Noting({"of": bench})])
    assert "Noting is left out of the checkpoint, since Bench could not be read back" in caplog.text
    assert scores(bench, DeSTSeg(), ckpt_path=engine.best_model_path)


def test_a_transform_that_no_checkpoint_can_hold_is_refused_before_the_training(bench: Bench) -> None:
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Lambda

    with pytest.raises(
        ValueError, match=r"^A checkpoint cannot hold Lambda of the pre-processor, .*: put it into the aug"
    ):
        trained(bench, DeSTSeg(**TINY, **STEPS, pre_processor=PreProcessor(Lambda(lambda image: image))))


def stored_step(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_a_training_that_runs_out_of_time_is_kept_and_the_same_command_goes_on(bench: Bench, caplog) -> None:
    class Hurry(Callback):
        """Lets half a minute pass with every step."""

        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            for callback in trainer.callbacks:
                if type(callback).__name__ == "Timer":
                    callback._duration -= 30

    reached, steps = [], {"student_steps": 4, "segmentation_steps": 1}
    for checkpoint in (None, "last", "last"):
        engine = bench.engine()
        engine._cache.args.update(max_time={"minutes": 1}, callbacks=[Hurry()])
        engine.fit(DeSTSeg(**TINY, **steps), datamodule=bench.data(), ckpt_path=checkpoint)
        weights = Path(engine.best_model_path).parent
        assert stored_step(weights / "last.ckpt") == stored_step(weights / "model.ckpt") == engine.trainer.global_step
        reached.append(engine.trainer.global_step)
    assert reached == [2, 4, 5]
    assert "The training ended in phase 1, after 2 of 4 steps: the segmentation network is untrained" in caplog.text


def test_without_a_validation_there_is_a_checkpoint_that_says_what_it_lacks(bench: Bench, caplog) -> None:
    model = DeSTSeg(**TINY, **STEPS)
    engine = trained(bench, model, limit_val_batches=0)
    weights = Path(engine.best_model_path).parent
    assert sorted(path.name for path in weights.iterdir()) == ["last.ckpt", "model.ckpt"]
    assert "No validation has set thresholds" in caplog.text
    caplog.clear()
    assert scores(bench, DeSTSeg(), ckpt_path=engine.best_model_path) == scores(bench, model)
    assert caplog.text.count("No validation has set thresholds") == 1


@pytest.mark.parametrize("use", ["test", "load"])
def test_a_checkpoint_of_phase_1_says_that_its_maps_mean_nothing(bench: Bench, use: str, caplog) -> None:
    engine = bench.engine()
    engine._cache.args["callbacks"].append(Save(bench.folder / "one.ckpt", 1))
    engine.fit(DeSTSeg(**TINY, student_steps=2, segmentation_steps=1), datamodule=bench.data())
    assert "phase 1, after" not in caplog.text
    if use == "test":
        bench.test(checkpoint=bench.folder / "one.ckpt")
    else:
        DeSTSeg.load_from_checkpoint(bench.folder / "one.ckpt")
    assert caplog.text.count("phase 1, after 1 of 2 steps: the segmentation network is untrained") == 1


def test_a_student_that_trains_alone_is_never_called_untrained(bench: Bench, caplog) -> None:
    trained(bench, DeSTSeg(**TINY, student_steps=1, segmentation=False))
    assert "untrained" not in caplog.text


class Sickness(Callback):
    """Makes the loss of some step, or the weights after it, infinite."""

    def __init__(self, step: int, *, weights: bool = False) -> None:
        self.step, self.weights = step, weights

    def on_train_batch_start(self, trainer: Any, model: Any, *args: Any) -> None:
        if trainer.global_step == self.step and not self.weights:
            network = model.model.student if self.step < model.hparams.student_steps else model.model.segmentation
            next(network.parameters()).data.fill_(float("nan"))

    def on_train_batch_end(self, trainer: Any, model: Any, *args: Any) -> None:
        if trainer.global_step == self.step + 1 and self.weights:
            next(model.model.segmentation.parameters()).data.fill_(float("inf"))


@pytest.mark.parametrize(
    ("sickness", "sentence"),
    [
        (Sickness(1), "The loss is NaN or infinite in phase 1 at step 2, .* lower student_lr,"),
        (Sickness(4), "The loss is NaN or infinite in phase 2 at step 5, .* lower segmentation_lr and head_lr,"),
        (Sickness(5, weights=True), r"Weights \(segmentation\.\S+\) became NaN or infinite in phase 2 at step 6, "),
    ],
    ids=["phase 1", "phase 2", "last step"],
)
def test_a_training_that_diverges_ends_there_and_leaves_a_sound_checkpoint(
    bench: Bench, monkeypatch, sickness: Sickness, sentence: str
) -> None:
    from destseg_anomalib.training import checkpoints

    for name, value in {"LEAST_SECONDS": 0, "TIME_SHARE": float("inf"), "CLOCK_STEPS": 1}.items():
        monkeypatch.setattr(checkpoints, name, value)
    engine = bench.engine()
    engine._cache.args["callbacks"].append(sickness)
    with pytest.raises(FloatingPointError, match=sentence):
        engine.fit(DeSTSeg(**TINY, student_steps=3, segmentation_steps=3), datamodule=bench.data())
    [last] = bench.folder.rglob("last.ckpt")
    content = torch.load(last, weights_only=True)
    assert content["global_step"] == sickness.step
    assert all(value.isfinite().all() for name, value in content["state_dict"].items() if name.startswith("model."))


def test_weights_that_are_finite_and_far_too_large_are_noticed_by_what_they_predict(bench: Bench) -> None:
    with pytest.raises(FloatingPointError, match="became NaN or infinite in phase 2 at step 2,"):
        trained(bench, DeSTSeg(**TINY, **STEPS, segmentation_lr=1e25, head_lr=1e25))


def test_a_part_is_not_judged_by_a_score_that_is_no_number(bench: Bench) -> None:
    model = DeSTSeg.load_from_checkpoint(bench.checkpoint)
    model.model.mean.fill_(float("nan"))
    sentence = r"^The score of an image among .*hole/000\.png is NaN: predict with --trainer"
    expect(sentence, lambda: scores(bench, model))


def test_what_a_scheduler_stops_by_sigterm_goes_on(bench: Bench) -> None:
    class Scheduler(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 1:
                trainer._signal_connector.received_sigterm = True

    with pytest.raises(SIGTERMException):
        trained(bench, DeSTSeg(**TINY, **STEPS), callbacks=[Scheduler()])
    [last] = bench.folder.rglob("last.ckpt")
    assert stored_step(last) == 1
    bench.engine().fit(DeSTSeg(**TINY, **STEPS), datamodule=bench.data(), ckpt_path="last")


def test_a_learning_rate_that_is_far_too_high_is_noticed_while_it_trains(bench: Bench) -> None:
    with pytest.raises(FloatingPointError, match=r"in phase 1 at step \d+, and the training ends here"):
        trained(bench, DeSTSeg(**TINY, student_steps=30, student_lr=1e30))
