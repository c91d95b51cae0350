# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The ways of an image through a trained model: how long each takes, and how much memory.

`benchmark_speed.py` prints the table. Each way runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.deploy import CompressionType
from anomalib.models.components import AnomalibModule
from official_style import plain, predict

import destseg_anomalib
from destseg_anomalib.deployment.inference import inference_copy

EXPORTER = {"opset_version": 18, "verbose": False}
SECONDS = 2.0  # for which a forward is repeated, at most ten times

Predict = Callable[[np.ndarray], object]


class Subject(NamedTuple):
    """What is measured: a model by name, its backbone and sizes, and the folder that `export` wrote."""

    model: str
    backbone: str
    size: int
    folder: Path
    crop_size: int | None = None

    def build(self) -> AnomalibModule:
        """Build the model, with random weights, and without a post-processor, whose thresholds come from a training."""
        torch.manual_seed(0)
        arguments = {"backbone": self.backbone, "pre_trained": False, "image_size": (self.size, self.size)}
        model = getattr(destseg_anomalib, self.model)
        return model(**arguments, crop_size=self.crop_size, post_processor=False).eval()


def official(subject: Subject) -> Predict:
    """The official test's forward, in PyTorch's plain layout."""
    model = plain(subject.build().model)
    return lambda images: predict(model, torch.from_numpy(images))


def pytorch(subject: Subject, bf16: bool = False) -> Predict:
    """Our copy for inference, with batch norms folded, in PyTorch."""
    model = inference_copy(subject.build().model, torch.bfloat16 if bf16 else torch.float32)

    def run(images: np.ndarray) -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(torch.from_numpy(images))

    return run


def onnx_runtime(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """An exported ONNX model, with the resize and all that follows in it."""
    import onnxruntime  # noqa: PLC0415 - each process imports its own runtime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"input": images}), strict=True))


def openvino(path: Path, precision: str = "f32") -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """An exported OpenVINO model, computed in the given floating type where it is not in integers."""
    from openvino import Core  # noqa: PLC0415

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = Core().compile_model(path, "CPU", options)
    return lambda images: {output.get_any_name(): value for output, value in compiled(images).items()}


WAYS: dict[str, Callable[[Subject], Predict]] = {
    "official, float32": official,
    "PyTorch float32": pytorch,
    "PyTorch bfloat16": lambda subject: pytorch(subject, bf16=True),
    "ONNX Runtime": lambda subject: onnx_runtime(subject.folder / "weights" / "onnx" / "model.onnx"),
    "OpenVINO float32": lambda subject: openvino(subject.folder / "weights" / "openvino" / "model.xml"),
    "OpenVINO bfloat16": lambda subject: openvino(subject.folder / "weights" / "openvino" / "model.xml", "bf16"),
    "OpenVINO INT8": lambda subject: openvino(subject.folder / "weights" / "openvino" / "int8.xml"),
}


def export(subject: Subject) -> None:
    """Write the model in all the forms that `WAYS` reads. What INT8 is calibrated on does not change its time."""
    model = subject.build()
    model.to_onnx(subject.folder, **EXPORTER)
    model.to_openvino(subject.folder, onnx_kwargs=EXPORTER)
    model.to_openvino(
        subject.folder,
        "int8",
        compression_type=CompressionType.INT8_PTQ,
        datamodule=destseg_anomalib.DemoSurfaces(root=subject.folder / "data", num_workers=0),
        onnx_kwargs=EXPORTER,
    )


def megabytes(entry: str) -> float:
    """Memory of this process as Linux counts it: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(entry))


def measure(way: str, subject: Subject, batches: list[int]) -> None:
    """Run one way in this process; print seconds and peak memory, beyond that of the imports, per batch as JSON."""
    before = megabytes("VmRSS")
    run = WAYS[way](subject)
    rng = np.random.default_rng(0)
    results = []
    for batch in batches:
        images = rng.random((batch, 3, subject.size, subject.size), dtype=np.float32)
        run(images)
        seconds: list[float] = []
        while not seconds or (len(seconds) < 10 and sum(seconds) < SECONDS):
            start = time.perf_counter()
            run(images)
            seconds.append(time.perf_counter() - start)
        results.append((statistics.median(seconds), megabytes("VmHWM") - before))
    print(json.dumps(results))


def inference_table(model: str, backbone: str, size: int, batches: list[int]) -> Iterator[str]:
    """Lines of the table: time of a batch, share of the official time, and peak memory, per way."""
    batches = sorted(batches)  # the peak of a process only grows
    heads = [f"{what} at {batch}" for what in ("ms", "share", "MB") for batch in batches]
    yield f"\nOne forward of {model} at {size}x{size}, by the images of the batch\n"
    yield f"| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}"
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(model, backbone, size, Path(folder))
        export(subject)
        command = [sys.executable, __file__, *map(str, subject), "--batches", *map(str, batches), "--way"]
        reference: list[float] = []
        for way in WAYS:
            done = subprocess.run([*command, way], check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
            seconds, memory = zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
            reference = reference or list(seconds)
            cells = [f"{1000 * value:.0f}" for value in seconds]
            cells += [f"{a / b:.2f}" for a, b in zip(seconds, reference, strict=True)]
            yield f"| {way} | {' | '.join(cells + [f'{value:.0f}' for value in memory])} |"


def main() -> None:
    """Measure one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = Subject._fields[: -len(Subject._field_defaults)]
    for name in names:
        parser.add_argument(name, type=Subject.__annotations__[name])
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    arguments = parser.parse_args()
    subject = Subject(*(getattr(arguments, name) for name in names))
    measure(arguments.way, subject, arguments.batches)


if __name__ == "__main__":
    main()
