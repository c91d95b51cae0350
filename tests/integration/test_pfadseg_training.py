# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""PFADSeg trained by anomalib's engine: precision, batches of one image, and how much memory it takes."""

import subprocess
import sys

import pytest
import torch
from anomalib.engine import Engine
from anomalib.models import get_model
from lightning.pytorch import Callback

from destseg_anomalib import PFADSeg
from tests.conftest import make_part_data

SMALL = {"backbone": "resnet18", "pre_trained": False, "student_steps": 1, "segmentation_steps": 1}


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(outputs["loss"].item())


def fit(folder, out, batch_size: int = 8, **trainer):
    # At the published rate it takes more than one step until running statistics have followed the weights.
    model, losses = PFADSeg(**SMALL, image_size=(64, 64), student_lr=0.01), Losses()
    engine = Engine(default_root_dir=out, accelerator="cpu", devices=1, logger=False, callbacks=[losses], **trainer)
    engine.fit(model, datamodule=make_part_data(folder, batch_size))
    return model, losses.values


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_both_phases_train_in_bfloat16_and_in_float32(part_folder, tmp_path, precision) -> None:
    model, losses = fit(part_folder, tmp_path, precision=precision)
    assert len(losses) == 2
    assert 10 < losses[0] < 60  # three levels, each near 1 for an untrained student, for 16 images
    assert 0 < losses[1] < 5
    assert all(value.isfinite().all() for value in model.model.state_dict().values())
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}


def test_a_batch_of_one_image_is_refused(part_folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="train_batch_size=1 cannot train"):
        fit(part_folder, tmp_path, batch_size=1)


def test_anomalib_makes_the_model_from_its_name() -> None:
    assert type(get_model("pfadseg", pre_trained=False)) is PFADSeg


def test_one_optimiser_has_the_published_groups() -> None:
    optimiser = PFADSeg(**SMALL).configure_optimizers()
    assert [g["lr"] for g in optimiser.param_groups] == [0.5, 0.1, 0.01]
    counts = [sum(p.numel() for p in g["params"]) for g in optimiser.param_groups]
    assert counts == [51_680_304, 5_462_816, 863_489]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_the_published_batch_trains_in_less_than_12_gibibytes(tmp_path, precision) -> None:
    pytest.importorskip("resource")  # Unix only; counts in KiB on Linux
    code = f"""
import resource
from anomalib.engine import Engine
from destseg_anomalib import PFADSeg
from destseg_anomalib.data import DemoSurfaces

model = PFADSeg("resnet18", pre_trained=False, student_steps=2, segmentation_steps=2)
engine = Engine(default_root_dir="out", accelerator="cpu", devices=1, logger=False, precision="{precision}",
                limit_val_batches=1)
engine.fit(model, datamodule=DemoSurfaces(root="data", train_batch_size=16, eval_batch_size=16))
assert engine.trainer.global_step == 4
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("peak")[-1]) / 2**20
    print(f"{precision}: {peak:.2f} GiB at the peak")  # noqa: T201
    assert peak < 12
