# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a training leaves is the average of its segmentation network, wherever one looks, and it can be gone on with."""

import gc
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from destseg_anomalib import DeSTSeg, PFADSeg
from tests.conftest import make_part_data, make_part_folder, quiet_engine, same_states
from tests.unit.training.test_averaging import defined

TINY = {"backbone": "test_resnet", "pre_trained": False, "image_size": (32, 32), "encoder_decoder": False}
PREFIX = "model.segmentation."


class Watch(Callback):
    """Keeps the segmentation network as each step of phase 2 leaves it, stores some, and may stop the training."""

    def __init__(self, folder: Path | None = None, kept: Container[int] = (), kill_at: int = 0) -> None:
        self.folder, self.kept, self.kill_at = folder, kept, kill_at
        self.states: list[dict[str, torch.Tensor]] = []
        self.validated: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step > pl_module.hparams.student_steps:
            self.states.append({n: v.clone() for n, v in pl_module.model.segmentation.state_dict().items()})
        if trainer.global_step in self.kept:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        if trainer.global_step == self.kill_at:
            trainer._signal_connector.received_sigterm = True  # what Lightning makes of SIGTERM

    def on_validation_batch_start(self, trainer, pl_module, *args) -> None:
        self.validated = {n: v.clone() for n, v in pl_module.model.segmentation.state_dict().items()}


def fit(
    parts: Path, out: Path, *callbacks: Callback, model: type = DeSTSeg, ckpt_path: Path | None = None, **kwargs: Any
) -> tuple[Any, Engine]:
    trainer = kwargs.pop("trainer", {})
    torch.manual_seed(3)
    small = {k: v for k, v in TINY.items() if model is DeSTSeg or k != "encoder_decoder"}
    trained = model(**(small | {"student_steps": 3, "segmentation_steps": 4} | kwargs))
    engine = quiet_engine(out, callbacks=list(callbacks), **trainer)
    engine.fit(trained, datamodule=make_part_data(parts), ckpt_path=ckpt_path)
    gc.collect()
    return trained, engine


def stored(path: Path | str) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def network(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def equal_checkpoints(one: dict[str, Any], other: dict[str, Any]) -> bool:
    averages = one["averaging"], other["averaging"]
    return (
        same_states(one["state_dict"], other["state_dict"])
        and same_states(averages[0]["last"], averages[1]["last"])
        and averages[0]["count"] == averages[1]["count"]
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Any, dict[str, Any], Watch, Path, Path]:
    """A training that nobody disturbs, with checkpoints of both phases, and of the border."""
    root = tmp_path_factory.mktemp("alone")
    parts = make_part_folder(root)
    watch = Watch(root, kept=range(2, 7))
    model, engine = fit(parts, root / "results", watch)
    return model, stored(engine.best_model_path), watch, parts, root


def test_the_average_of_all_steps_is_what_is_validated_stored_and_left(alone) -> None:
    model, checkpoint, watch, _, _ = alone
    assert len(watch.states) == 4
    left = model.model.segmentation.state_dict()
    for name, value in left.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, defined(watch.states, name).float(), rtol=1e-5, atol=1e-6)
    assert same_states(watch.validated, left)
    assert same_states(network(checkpoint["state_dict"]), left)
    assert same_states(checkpoint["averaging"]["last"], watch.states[-1])
    assert not same_states(watch.states[-1], left)
    assert model.average is None  # it was the training's


def test_a_checkpoint_on_the_way_is_tested_as_an_average_and_gone_on_with_from_its_last_step(alone, tmp_path) -> None:
    _, checkpoint, watch, parts, root = alone
    on_the_way = stored(root / "5.ckpt")
    assert same_states(on_the_way["averaging"]["last"], watch.states[1])
    asked = DeSTSeg.load_from_checkpoint(root / "5.ckpt", map_location="cpu")
    assert same_states(asked.model.segmentation.state_dict(), network(on_the_way["state_dict"]))
    for step in (2, 3, 4, 6):  # in phase 1, at the border, in phase 2
        _, engine = fit(parts, tmp_path / str(step), ckpt_path=root / f"{step}.ckpt")
        assert equal_checkpoints(stored(engine.best_model_path), checkpoint)


def test_a_training_stopped_by_a_scheduler_ends_as_if_it_had_not_been(alone, tmp_path) -> None:
    _, checkpoint, _, parts, _ = alone
    with pytest.raises(SIGTERMException):
        fit(parts, tmp_path, Watch(kill_at=5))
    [last] = tmp_path.rglob("last.ckpt")
    assert stored(last)["averaging"]["count"] == 2
    _, engine = fit(parts, tmp_path, ckpt_path=last)
    assert equal_checkpoints(stored(engine.best_model_path), checkpoint)


def test_the_average_disturbs_no_step(alone, tmp_path) -> None:
    _, checkpoint, _, parts, _ = alone
    _, engine = fit(parts, tmp_path, average_weights=False)
    papers = stored(engine.best_model_path)
    assert "averaging" not in papers
    assert same_states(network(papers["state_dict"]), checkpoint["averaging"]["last"])


def test_a_checkpoint_of_before_there_were_averages_is_tested_and_gone_on_with(alone, tmp_path) -> None:
    _, _, watch, parts, root = alone
    old = stored(root / "5.ckpt")
    old["state_dict"] |= {PREFIX + name: value for name, value in old.pop("averaging")["last"].items()}
    for name in ("average_weights", "distance_weight"):
        del old["hyper_parameters"][name]
    torch.save(old, tmp_path / "old.ckpt")
    model = DeSTSeg(**TINY)
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False}
    data = make_part_data(parts)
    Engine(default_root_dir=tmp_path / "test", **quiet).test(
        model, datamodule=data, ckpt_path=tmp_path / "old.ckpt", verbose=False
    )
    assert same_states(model.model.segmentation.state_dict(), watch.states[1])
    _, engine = fit(parts, tmp_path / "on", ckpt_path=tmp_path / "old.ckpt")
    ended = stored(engine.best_model_path)
    assert ended["averaging"]["count"] == 2  # of the steps that this version took
    assert same_states(ended["averaging"]["last"], watch.states[-1])


def test_a_users_checkpoint_of_weights_alone_has_the_average(alone, tmp_path) -> None:
    _, checkpoint, _, parts, _ = alone
    own = ModelCheckpoint(dirpath=tmp_path / "own", filename="own", save_weights_only=True, every_n_train_steps=7)
    fit(parts, tmp_path, own)
    assert same_states(network(stored(tmp_path / "own" / "own.ckpt")["state_dict"]), network(checkpoint["state_dict"]))


@pytest.mark.parametrize(
    "case",
    [
        {"model": PFADSeg, "distance_weight": 0.5},
        {"trainer": {"accumulate_grad_batches": 2}},
        {"trainer": {"precision": "bf16-mixed"}},
    ],
    ids=["PFADSeg-with-witness", "accumulation", "bf16"],
)
def test_every_optimiser_step_counts_once_and_a_resumed_training_ends_alike(alone, tmp_path, case) -> None:
    _, _, _, parts, _ = alone
    watch = Watch(tmp_path, kept={5})
    model, engine = fit(parts, tmp_path / "alone", watch, segmentation_steps=3, **case)
    checkpoint = stored(engine.best_model_path)
    assert checkpoint["averaging"]["count"] == 3
    for name, value in model.model.segmentation.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, defined(watch.states, name).float(), rtol=1e-5, atol=1e-6)
    case["trainer"] = dict(case.get("trainer", {}))
    _, engine = fit(parts, tmp_path / "on", ckpt_path=tmp_path / "5.ckpt", segmentation_steps=3, **case)
    assert equal_checkpoints(stored(engine.best_model_path), checkpoint)
