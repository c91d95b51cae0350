# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Does an exported model see what the trained one saw? Differences of map and score, and figures of every way.

    python examples/export_fidelity.py model.ckpt --data datasets/MVTecAD/bottle

The first table takes test images at other sizes through the whole exported model, post-processing included. The second
computes figures from raw maps of the whole test set. INT8 is calibrated on good training images, which no figure sees.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import CompressionType
from anomalib.models import AnomalibModule
from benchmark_synthesis import machine
from inference_paths import EXPORTER, onnx_runtime, openvino
from torch.nn.functional import interpolate

import destseg_anomalib
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFiguresMetric

SIZES = ((900, 900), (700, 500), (1024, 1024))

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def pytorch(model: AnomalibModule, bf16: bool = False) -> Run:
    """What `anomalib predict` does: the data's transform, the network, the post-processor."""

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        batch = model.pre_processor.transform(torch.from_numpy(images))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            answer = model.model(batch)
            answer = model.post_processor(answer) if model.post_processor else answer
        return {name: value.float().numpy() for name, value in answer._asdict().items() if value is not None}

    return run


def differences(model: AnomalibModule, datamodule: MVTecAD, folder: Path) -> Iterator[str]:
    """Lines of the first table."""
    expected = pytorch(model)
    ways = {
        "ONNX Runtime": onnx_runtime(model.to_onnx(folder, **EXPORTER)),
        "OpenVINO float32": openvino(model.to_openvino(folder, onnx_kwargs=EXPORTER), "f32"),
    }
    chosen = np.linspace(0, len(datamodule.test_data) - 1, 4).astype(int)  # of several kinds of defects
    native = torch.stack([datamodule.test_data[index].image for index in chosen.tolist()])
    yield "| | images | largest difference of the map | of the score |\n|---|---|---|---|"
    for name, run in ways.items():
        for size in SIZES:
            for count in (1, 4):
                images = interpolate(native[-count:], size, mode="bicubic").clamp(0, 1).numpy()
                ours, theirs = expected(images), run(images)
                apart = [np.abs(ours[key] - theirs[key]).max() for key in ("anomaly_map", "pred_score")]
                yield f"| {name} | {count} of {size[0]} x {size[1]} | {apart[0]:.1e} | {apart[1]:.1e} |"


def figures(run: Run, model: AnomalibModule, datamodule: MVTecAD) -> list[float]:
    """Pixel AP, IAP and IAP@90 of a way of the test images through the model."""
    metric = PixelFiguresMetric()
    for item in datamodule.test_data:
        anomaly_map = torch.from_numpy(run(item.image[None].numpy())["anomaly_map"])[0]
        metric.update(anomaly_map, model.pre_processor.transform(item.gt_mask)[None])
    result = metric.compute()
    curve = result.curve.precision
    return [result.average_precision, mean_precision(curve), precision_at(curve, 0.9)]


def comparison(model: AnomalibModule, datamodule: MVTecAD, folder: Path) -> Iterator[str]:
    """Lines of the second table."""
    model.post_processor = None  # figures rank raw maps
    onnx = model.to_onnx(folder, "raw", **EXPORTER)
    plain = model.to_openvino(folder, "raw", onnx_kwargs=EXPORTER)
    int8 = model.to_openvino(
        folder, "int8", compression_type=CompressionType.INT8_PTQ, datamodule=datamodule, onnx_kwargs=EXPORTER
    )
    ways = {
        "PyTorch float32": pytorch(model),
        "PyTorch bfloat16": pytorch(model, bf16=True),
        "ONNX Runtime": onnx_runtime(onnx),
        "OpenVINO float32": openvino(plain, "f32"),
        "OpenVINO bfloat16": openvino(plain, "bf16"),
        "OpenVINO INT8, else float32": openvino(int8, "f32"),
        "OpenVINO INT8, else bfloat16": openvino(int8, "bf16"),
    }
    yield "\n| | pixel AP | IAP | IAP@90 | change of AP | of IAP |\n|---|---|---|---|---|---|"
    reference: list[float] = []
    for name, run in ways.items():
        values = figures(run, model, datamodule)
        reference = reference or values
        changes = [a - b for a, b in zip(values[:2], reference, strict=False)]
        yield f"| {name} | {' | '.join([f'{v:.4f}' for v in values] + [f'{c:+.4f}' for c in changes])} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", default="DeSTSeg", choices=["DeSTSeg", "PFADSeg"])
    parser.add_argument("--data", type=Path, required=True, help="folder of a category in MVTec AD's layout")
    arguments = parser.parse_args()
    folder = arguments.data.resolve()
    datamodule = MVTecAD(root=folder.parent, category=folder.name, num_workers=0, val_split_mode="from_train")
    datamodule.setup()
    model = getattr(destseg_anomalib, arguments.model).load_from_checkpoint(arguments.checkpoint, map_location="cpu")
    model.eval()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as scratch:
        for table in (differences, comparison):
            for line in table(model, datamodule, Path(scratch)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
