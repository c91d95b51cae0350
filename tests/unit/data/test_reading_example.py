# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_both_ways_of_reading_are_timed_in_one_test(monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["benchmark_reading.py", "--images", "6", "--size", "32"])
    import benchmark_reading

    benchmark_reading.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["png", "jpg"]
    assert all(float(cell.rstrip("%")) for row in rows[1:] for cell in (*row[1:3], *row[4:6]))


class Session:
    """An exported model that remembers what it was given."""

    given: np.ndarray

    def __init__(self, model: str) -> None:
        assert model == "model.onnx"

    def get_outputs(self) -> list:
        return [type("Output", (), {"name": name}) for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask")]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert len(names) == 4
        Session.given = inputs["input"]
        return [np.array([0.5]), np.array([False]), np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4, 4), bool)]


@pytest.fixture
def run_example(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", type("onnxruntime", (), {"InferenceSession": Session}))

    def run(picture: Path) -> None:
        import runpy

        monkeypatch.setattr(sys, "argv", ["onnx_without_torch.py", "model.onnx", str(picture), str(tmp_path / "h.png")])
        runpy.run_path(str(EXAMPLES / "onnx_without_torch.py"))

    return run


def test_the_onnx_example_reads_what_anomalib_reads(run_example, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, np.ones((8, 8), np.uint8))
    Image.fromarray(picture).convert("RGB").save(tmp_path / "a.png", exif=exif)
    run_example(tmp_path / "a.png")
    assert np.array_equal((Session.given * 255).round(), np.stack([picture] * 3)[None])


def test_the_onnx_example_names_a_picture_that_it_cannot_read(run_example, tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"image \S*none\.png does not exist or cannot be read: give the path"):
        run_example(tmp_path / "none.png")
