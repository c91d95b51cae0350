# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""`python -m destseg_anomalib preview` shows what a training would teach, and trains nothing."""

import runpy
import sys

from torchvision.io import read_image

from tests.integration.test_cli import TRAINER, data_arguments


def test_the_preview_of_a_training_is_a_picture_and_nothing_else(part_folder, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model", "DeSTSeg", "--model.backbone", "test_resnet", "--model.image_size", "[32,32]"]
    monkeypatch.setattr(sys, "argv", ["-m", "preview", *model, *data_arguments(part_folder), *TRAINER])
    with caplog.at_level("INFO", logger="destseg_anomalib"):
        runpy.run_module("destseg_anomalib", run_name="__main__")
    [picture] = tmp_path.rglob("synthetic.png")
    assert picture.parent.name == "v0"
    assert read_image(str(picture)).shape == (3, 2 * 34 + 2, 8 * 34 + 2)  # eight images above their masks
    assert f"is shown in {picture}" in caplog.text
    assert "mean nothing" not in caplog.text  # of an untrained network, which nobody asked for
    assert not list(tmp_path.rglob("*.ckpt"))
