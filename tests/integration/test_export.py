# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""An exported file gives the answer of the trained model, whatever the size of the image and the runtime."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from anomalib.deploy import CompressionType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from anomalib.models.components.base.export_mixin.mixin import ExportMixin
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.deployment import quantization
from tests.conftest import make_part_data, make_part_folder

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_without_torch.py"
MAP_LIMIT, SCORE_LIMIT = 1e-3, 1e-4  # after post-processing, in [0, 1]
# A quarter of 900 x 900, 700 x 500 and 1024 x 1024 pixels, for a model of 64 pixels instead of 256.
SHAPES = [(count, 3, *size) for size in ((225, 225), (175, 125), (256, 256)) for count in (1, 4)]

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def each_model_is_converted_once(tmp_path_factory) -> Iterator[None]:
    """Every way of export begins with the same ONNX file, and to make it takes up to a minute."""
    convert, made = ExportMixin.to_onnx, {}

    def to_onnx(
        model: AnomalibModule, export_root: Path, name: str = "model", size: object = None, **kwargs: object
    ) -> Path:
        key = (model, model.post_processor, size, *kwargs.items())
        if key not in made:
            made[key] = convert(model, tmp_path_factory.mktemp("onnx"), "model", size, **kwargs)
        folder = Path(export_root) / "weights" / "onnx"
        copied = shutil.copytree(made[key].parent, folder, dirs_exist_ok=True) / made[key].name
        return copied.rename(folder / f"{name}.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExportMixin, "to_onnx", to_onnx)
        yield
    for path in made.values():  # 640 MB
        shutil.rmtree(path.parent)


@pytest.fixture(scope="module", params=[(DeSTSeg, 0.5), (PFADSeg, 0.0)], ids=["DeSTSeg-with-witness", "PFADSeg"])
def trained(request, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A model trained for a few steps on small images, its data and the folder of both."""
    root = tmp_path_factory.mktemp("export")
    data = make_part_data(make_part_folder(root))
    seed_everything(0, verbose=False)
    model_class, distance_weight = request.param
    model = model_class(
        backbone="resnet18",
        pre_trained=False,
        image_size=(64, 64),
        student_steps=2,
        segmentation_steps=6,
        distance_weight=distance_weight,
    )
    engine = Engine(default_root_dir=root, accelerator="cpu", devices=1, logger=False)
    engine.fit(model, datamodule=data)
    # After so few steps the map hardly varies, and its post-processor would stretch it, and every rounding of float32
    # with it, a hundredfold. It gets the range that a trained model has.
    post = model.post_processor
    for buffer, value in ((post.image_min, 0), (post.image_max, 1), (post.pixel_min, 0), (post.pixel_max, 1)):
        buffer.fill_(value)
    yield SimpleNamespace(model=model.eval(), data=data, root=root)
    shutil.rmtree(root)


def run_onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"input": images}), strict=True))


def predict(model: AnomalibModule, images: np.ndarray) -> dict[str, np.ndarray]:
    """Do what `anomalib predict` does: the transform of the data, the network, the post-processor."""
    with torch.inference_mode():
        prediction = model.post_processor(model.model(model.pre_processor.transform(torch.from_numpy(images))))
    return {name: value.numpy() for name, value in prediction._asdict().items() if value is not None}


def native_images(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Fine texture with a bright disc: what a resize without antialiasing would see differently."""
    images = np.random.default_rng(0).integers(60, 190, (shape[0], *shape[2:], 3), dtype=np.uint8)
    for image in images:
        cv2.circle(image, (shape[3] // 2, shape[2] // 2), 20, (255, 255, 255), thickness=-1)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255


def assert_agreement(run: Run, model: AnomalibModule, map_limit: float = MAP_LIMIT) -> None:
    for shape in SHAPES:
        images = native_images(shape)
        expected, actual = predict(model, images), run(images)
        assert np.abs(actual["anomaly_map"] - expected["anomaly_map"]).max() < map_limit
        assert np.abs(actual["pred_score"] - expected["pred_score"]).max() < SCORE_LIMIT


@pytest.fixture(scope="module")
def onnx_file(trained) -> Path:
    """The model as `anomalib export --export_type onnx` leaves it."""
    return trained.model.to_onnx(trained.root)


def test_onnx_runtime_agrees_with_the_model_at_any_size_and_batch(trained, onnx_file) -> None:
    assert_agreement(run_onnx(onnx_file), trained.model, map_limit=1e-4)


def test_openvino_agrees_with_the_model_at_any_size_and_batch(trained) -> None:
    openvino = pytest.importorskip("openvino")
    path = trained.model.to_openvino(trained.root)
    # Where the processor can, OpenVINO computes in bfloat16 unless told otherwise.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    run: Run = lambda images: {output.get_any_name(): value for output, value in compiled(images).items()}  # noqa: E731
    assert_agreement(run, trained.model, map_limit=1e-4)


def test_openvino_computes_as_pytorch_where_it_is_asked_for_float32(trained, tmp_path, monkeypatch) -> None:
    """A processor with bfloat16 units uses them unless told otherwise, and its answers are then other ones."""
    openvino = pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)  # where the inferencer caches hundreds of megabytes
    path = next(trained.root.glob("weights/openvino/model.xml"), None) or trained.model.to_openvino(trained.root)
    images = native_images((1, 3, 175, 125))
    expected = predict(trained.model, images)["anomaly_map"]
    errors = {}
    for name, config in (("as it comes", {}), ("float32", {"INFERENCE_PRECISION_HINT": "f32"})):
        inferencer = OpenVINOInferencer(path, "CPU", config)
        errors[name] = np.abs(inferencer.predict(images[0].transpose(1, 2, 0)).anomaly_map - expected).max()
    assert errors["float32"] < 1e-4
    core = openvino.Core()
    precision = core.compile_model(path, "CPU").get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert (errors["as it comes"] > 1e-4) == (precision == "bf16"), errors


@pytest.mark.parametrize("compression", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_eight_bits_leave_the_resize_and_the_first_convolutions_in_float_and_the_maps_alike(
    trained, compression, monkeypatch, caplog
) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    if isinstance(trained.model, PFADSeg) and compression == CompressionType.INT8_ACQ:
        pytest.skip("accuracy is controlled alike for both models, and it takes most of a minute")
    workers = []
    load = lambda *args, num_workers, **kwargs: workers.append(num_workers) or DataLoader(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(quantization, "DataLoader", load)
    monkeypatch.setattr(trained.data, "num_workers", 1000)
    monkeypatch.setattr(logging.getLogger("nncf"), "propagate", True)
    # A few hundred steps would be needed for labels that eight bits can hold, so ACQ may lose the whole metric.
    path = trained.model.to_openvino(
        trained.root / compression, compression_type=compression, datamodule=trained.data, max_drop=1.0
    )
    assert 1 <= max(workers) <= os.cpu_count()
    assert not any("smaller than the requested subset size" in entry.message for entry in caplog.records)
    network = openvino.Core().read_model(path)
    quantised = [
        layer.get_type_name()
        for layer in network.get_ops()
        if any(source.get_source_output().get_node().get_type_name() == "FakeQuantize" for source in layer.inputs())
    ]
    assert quantised.count("Convolution") > 20
    assert "MatMul" not in quantised  # the resize
    compiled = openvino.Core().compile_model(network, "CPU")  # at the precision that OpenVINO chooses
    images = native_images((1, 3, 225, 225))
    answer = {output.get_any_name(): value for output, value in compiled(images).items()}
    assert np.abs(answer["anomaly_map"] - predict(trained.model, images)["anomaly_map"]).max() < 0.1


def test_eight_bit_weights_are_loaded_and_leave_the_maps_alike(trained) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    path = trained.model.to_openvino(trained.root / "weights", compression_type=CompressionType.INT8)
    compiled = openvino.Core().compile_model(path, "CPU")  # at the precision that OpenVINO chooses
    images = native_images((1, 3, 225, 225))
    answer = {output.get_any_name(): value for output, value in compiled(images).items()}
    assert np.abs(answer["anomaly_map"] - predict(trained.model, images)["anomaly_map"]).max() < 0.1


def test_eight_bits_without_images_to_calibrate_on_are_refused(trained) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(ValueError, match="int8_ptq' needs images to calibrate on"):
        trained.model.to_openvino(trained.root / "int8", compression_type=CompressionType.INT8_PTQ)
    with pytest.raises(ValueError, match="int8_acq' needs images to calibrate on"):
        trained.model._compress_ov_model(None, CompressionType.INT8_ACQ)  # without a minute of conversion before it
    with pytest.raises(ValueError, match="max_drop=2 is not a loss"):
        trained.model._compress_ov_model(None, CompressionType.INT8_ACQ, trained.data, max_drop=2)


def test_the_stock_transform_would_not_agree(trained) -> None:
    stock = PreProcessor(v2.Resize((64, 64), antialias=True))
    images = torch.from_numpy(native_images((1, 3, 256, 256)))
    with torch.inference_mode():
        seen, exported = (trained.model.model(transform(images)) for transform in (stock.transform, stock))
    assert (seen.anomaly_map - exported.anomaly_map).abs().max() > MAP_LIMIT


def test_the_onnx_file_runs_without_torch(trained, onnx_file, tmp_path) -> None:
    picture = native_images((1, 3, 175, 125))
    cv2.imwrite(str(tmp_path / "part.png"), (picture[0, ::-1].transpose(1, 2, 0) * 255).round().astype(np.uint8))
    block = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", block, EXAMPLE, onnx_file, "part.png", "heat.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = predict(trained.model, picture)["pred_score"].item()
    assert float(done.stdout.split()[1].rstrip(",")) == pytest.approx(expected, abs=2e-3)
    assert cv2.imread(str(tmp_path / "heat.png")).shape == (175, 125, 3)


def test_the_fidelity_of_every_way_is_printed(trained, monkeypatch, capsys) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    if isinstance(trained.model, PFADSeg):
        pytest.skip("the ways are the same for both models, and each takes seconds to compile")
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    (checkpoint,) = trained.root.glob("**/model.ckpt")
    monkeypatch.setattr(sys, "argv", ["export_fidelity.py", str(checkpoint), "--data", str(trained.root / "parts")])
    import export_fidelity

    monkeypatch.setattr(export_fidelity, "SIZES", ((100, 90),))
    export_fidelity.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    parity = [cells for cells in lines if len(cells) == 4 and cells[1].endswith("100 x 90")]
    assert len(parity) == 4
    figures = {cells[0]: list(map(float, cells[1:])) for cells in lines if len(cells) == 6 and "AP" not in cells[1]}
    assert len(figures) == 7
    assert figures["ONNX Runtime"] == pytest.approx(figures["PyTorch float32"], abs=1e-3)
