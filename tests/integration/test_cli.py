# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The commands that a user types, for both models: train, test, predict and export."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from anomalib.cli.cli import AnomalibCLI

from tests.conftest import ANOMALIB, make_part_folder

SWITCHES = {"backbone": "test_resnet", "pre_trained": "false", "image_size": "[32,32]"}
STEPS = {"student_steps": "2", "segmentation_steps": "2", "student_lr": "0.01"}
ARGUMENTS = [f"--model.{name}={value}" for name, value in (SWITCHES | STEPS).items()]
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]


def data_arguments(folder: Path) -> list[str]:
    return f"""
        --data Folder --data.name parts --data.root {folder} --data.normal_dir train/good
        --data.normal_test_dir test/good --data.abnormal_dir test/hole --data.mask_dir ground_truth/hole
        --data.train_batch_size 4 --data.eval_batch_size 4 --data.num_workers 0 --data.val_split_mode same_as_test
    """.split()


@dataclass
class Trained:
    """What `anomalib train` left: the name of the model, its arguments, the working folder, the text printed."""

    model: str
    arguments: list[str]
    folder: Path
    printed: str

    @property
    def checkpoint(self) -> list[str]:
        (path,) = self.folder.rglob("model.ckpt")
        return ["--ckpt_path", str(path)]


# What the command `anomalib` runs, by the name that Lightning starts again for a second process.
COMMAND = f"import sys; from anomalib.cli.cli import main; sys.argv[0] = {str(ANOMALIB)!r}; main()"


@pytest.fixture(scope="module", params=["DeSTSeg", "PFADSeg"])
def trained(request, forks, tmp_path_factory) -> Iterator[Trained]:
    """A training in a process of its own, where the name of the model is found as a user's would be."""
    folder = tmp_path_factory.mktemp(request.param)
    model = ["--model", request.param, *ARGUMENTS]
    data = [*data_arguments(make_part_folder(folder)), "--data.train_batch_size", "8"]
    done = forks.run(COMMAND, "train", *model, *data, *TRAINER, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    yield Trained(request.param, model, folder, done.stdout + done.stderr)
    shutil.rmtree(folder)


@pytest.fixture
def run(trained, monkeypatch) -> Callable[[list[str]], AnomalibCLI]:
    """Run a command in this process, which saves the seconds of importing anomalib."""
    monkeypatch.chdir(trained.folder)
    return AnomalibCLI


def test_train_shows_phases_losses_and_the_eight_figures_and_leaves_heat_maps(trained) -> None:
    for shown in ("phase 1, the student", "phase 2, the segmentation", "student_loss", "focal_loss", "l1_loss"):
        assert shown in trained.printed
    for figure in ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_F1Score", "IAP@90"):
        assert figure in trained.printed
    assert len(list(trained.folder.rglob("images/test/**/*.png"))) == 6


def test_test_command_gives_the_figures_of_the_training_run(trained, run, capsys) -> None:
    run(["test", *trained.arguments, *data_arguments(trained.folder / "parts"), *TRAINER, *trained.checkpoint])

    def figures(text: str) -> dict[str, float]:
        rows = (line.split("│") for line in text.splitlines() if line.startswith("│"))
        return {row[1].strip(): float(row[2]) for row in rows if len(row) == 4}

    again = figures(capsys.readouterr().out)
    assert again == pytest.approx(figures(trained.printed), abs=1e-6)
    assert len(again) >= 8


def test_predict_command_makes_heat_maps_of_a_folder(trained, run) -> None:
    before = set(trained.folder.rglob("*.png"))
    pictures = str(trained.folder / "parts" / "test" / "hole")
    run(["predict", *trained.arguments, *TRAINER, "--data", pictures, *trained.checkpoint])
    assert len(set(trained.folder.rglob("*.png")) - before) >= 3


def test_export_command_writes_a_file(trained, run) -> None:
    pytest.importorskip("onnxscript")
    # ONNX takes half a minute, and both models are compared with it elsewhere: here each has a format of its own.
    kind, file = {"DeSTSeg": ("onnx", "onnx/model.onnx"), "PFADSeg": ("torch", "torch/model.pt")}[trained.model]
    out = trained.folder / "out"
    run(["export", "--model", trained.model, "--export_type", kind, *trained.checkpoint, "--export_root", str(out)])
    assert (out / "weights" / file).stat().st_size > 10_000
