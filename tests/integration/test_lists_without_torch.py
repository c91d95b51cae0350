# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The list of defects that a prediction leaves is the one that an exported model gives where there is no PyTorch."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from destseg_anomalib import OperatingPoint
from tests.conftest import make_part_folder
from tests.unit.metrics.brightness import Brightness, engine, parts

pytest.importorskip("onnxscript")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with pictures, with what a prediction of them has left, and with the model as ONNX."""
    folder = tmp_path_factory.mktemp("predicted")
    data = parts(make_part_folder(folder))
    model = Brightness(visualizer=False, post_processor=OperatingPoint(instance_recall=0.5))
    engine(folder).validate(model, datamodule=data, verbose=False)
    model.post_processor._pixel_threshold.fill_(30 * 0.6)
    (folder / "new").mkdir()
    for name, height, width, discs in (("many", 354, 488, 5), ("one", 90, 61, 1), ("none", 50, 50, 0)):
        picture = np.random.default_rng(discs).integers(20, 90, (height, width, 3), dtype=np.uint8)
        for disc in range(discs):
            middle = (2 * disc + 1) * width // (2 * discs), (disc + 1) * height // (discs + 1)
            cv2.circle(picture, middle, 20 + 4 * disc, (200 + 10 * disc, 255, 220), thickness=-1)
        cv2.imwrite(str(folder / "new" / f"{name}.png"), picture)
    engine(folder).predict(model.eval(), data_path=folder / "new")
    model.to_onnx(folder)
    yield folder
    shutil.rmtree(folder)


def assert_lists_agree(predicted: Path, name: str, printed: str) -> None:
    [folder] = predicted.glob("**/predictions/v0")
    defects = pd.read_csv(folder / "defects.csv")
    expected = defects[[Path(path).stem == name for path in defects["picture"]]].drop(columns="picture")
    found = pd.read_csv(StringIO(printed)).astype(float)
    assert list(found) == list(expected)
    assert len(found) == len(expected) == {"many": 5, "one": 1, "none": 0}[name]
    exact = ["left", "top", "width", "height"]
    assert found[exact].values.tolist() == expected[exact].values.tolist()
    np.testing.assert_allclose(found, expected, atol=0.51, rtol=1e-3)  # where a half is rounded, printed to a digit
    scores = ["highest_score", "mean_score"]
    np.testing.assert_allclose(found[scores], expected[scores], atol=1e-4)


@pytest.mark.parametrize("name", ["many", "one", "none"])
def test_python_lists_the_same_defects(predicted: Path, name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    block = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    script, heat, picture = EXAMPLES / "onnx_without_torch.py", tmp_path / "heat.png", predicted / "new" / f"{name}.png"
    [model] = predicted.rglob("model.onnx")
    command = [sys.executable, "-c", block, script, model, picture, heat]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict, printed = done.stdout.split("\n", 1)
    assert verdict.endswith("normal" if name == "none" else "anomalous")
    assert_lists_agree(predicted, name, printed)
    drawn = cv2.imread(str(heat))
    assert drawn.shape == cv2.imread(str(picture)).shape
    assert (drawn == 255).all(axis=2).any() == (name != "none")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in C++, with OpenVINO of the wheel and OpenCV of the system."""
    root = Path(pytest.importorskip("openvino").__file__).parent
    compiler, finder = shutil.which("g++"), shutil.which("pkg-config")
    if compiler is None or finder is None or subprocess.run([finder, "opencv4"], check=False).returncode:
        pytest.skip("there is no g++, or no OpenCV for it")
    headers = subprocess.run([finder, "--cflags", "opencv4"], capture_output=True, text=True, check=True).stdout.split()
    [library] = (root / "libs").glob("libopenvino.so*")
    libraries = [library, f"-Wl,-rpath,{library.parent}", "-lopencv_core", "-lopencv_imgproc", "-lopencv_imgcodecs"]
    program = tmp_path_factory.mktemp("compiled") / "list_defects"
    command = [compiler, "-std=c++17", "-Wall", *headers, f"-I{root / 'include'}", EXAMPLES / "list_defects.cpp"]
    done = subprocess.run([*command, *libraries, "-o", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "list_defects.cpp" not in done.stderr  # no warning of ours
    return program


@pytest.mark.parametrize("name", ["many", "one", "none"])
def test_cpp_lists_the_same_defects(predicted: Path, compiled: Path, name: str) -> None:
    [model] = predicted.rglob("model.onnx")
    command = [compiled, model, predicted / "new" / f"{name}.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("normal" if name == "none" else "anomalous")
    assert_lists_agree(predicted, name, done.stdout)
    if name == "many":
        fewer = subprocess.run([*command, "20"], capture_output=True, text=True, check=True).stdout
        assert 1 < len(fewer.splitlines()) < len(done.stdout.splitlines())


def test_cpp_says_what_it_lacks(compiled: Path, predicted: Path) -> None:
    [model] = predicted.rglob("model.onnx")
    assert subprocess.run([compiled], capture_output=True, check=False).returncode == 2
    done = subprocess.run([compiled, model, "none.png"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "none.png does not exist" in done.stderr
