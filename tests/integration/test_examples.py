# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Every short example runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import cv2

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_picture_of_iap_is_drawn(tmp_path) -> None:
    command = [sys.executable, EXAMPLES / "explain_iap.py", "--out", tmp_path / "iap.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"MPLBACKEND": "agg"}, cwd=tmp_path)
    assert "IAP 0.8" in done.stdout
    assert cv2.imread(str(tmp_path / "iap.png")).std() > 10
