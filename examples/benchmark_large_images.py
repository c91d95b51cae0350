# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What large pictures cost: a step with crops beside one with whole pictures of that size, and a picture in tiles.

    python examples/benchmark_large_images.py

Prints seconds a step of training on pictures of 256 x 256, and on crops of that size of the demo's pictures of
1024 x 1024, kept in memory and in a file; then the time and memory of judging a picture of 4096 x 4096, beside the time
of one of 256 x 256. The networks have random weights. Run it on a machine that does nothing else; eight minutes on two
cores.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from anomalib.engine import Engine
from benchmark_speed import Stopwatch, repeated
from benchmark_synthesis import machine
from inference_paths import EXPORTER, Predict, megabytes, openvino
from lightning.pytorch import seed_everything

from destseg_anomalib import DemoSurfaces, DeSTSeg
from destseg_anomalib.deployment.inference import inference_copy

SMALL = 256
TRAININGS = {  # the demo's pictures, and whether they are kept in memory
    "whole pictures of 256 x 256": (SMALL, True),
    "crops of 1024 x 1024 in memory": (1024, True),
    "crops of 1024 x 1024 in a file": (1024, False),
}


def steps(size: int, *, in_memory: bool, folder: Path) -> tuple[float, float]:
    """Seconds of a step of each phase."""
    seed_everything(0, verbose=False)
    count = 4  # the first of each warms up
    model = DeSTSeg(
        "resnet18.tv_in1k",
        pre_trained=False,
        image_size=(size, size),
        crop_size=None if size == SMALL else SMALL,
        student_steps=count,
        segmentation_steps=count,
        student_lr=1e-3,
        segmentation_lr=1e-3,
        head_lr=1e-3,
    )
    watch = Stopwatch()
    data = DemoSurfaces(root=folder, size=size, train_batch_size=8, num_workers=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    with patch("destseg_anomalib.training.images.CACHE_SHARE", 0.25 if in_memory else 0.0):
        Engine(default_root_dir=folder, precision="bf16-mixed", callbacks=[watch], **quiet).fit(model, datamodule=data)
    phases = watch.steps[1:count], watch.steps[count + 1 :]
    return tuple(statistics.median(step["step"] for step in phase) for phase in phases)


def training_table(rounds: int) -> Iterator[str]:
    """Lines of the table: the sides take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in TRAININGS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, (size, in_memory) in TRAININGS.items():
                seconds[name].append(steps(size, in_memory=in_memory, folder=Path(folder)))
    yield "\n| a step of 8, bf16-mixed | phase 1, s | phase 2, s | to the first |\n|---|---|---|---|"
    middle = {name: [statistics.median(phase) for phase in zip(*found, strict=True)] for name, found in seconds.items()}
    first = sum(next(iter(middle.values())))
    for name, (one, two) in middle.items():
        yield f"| {name} | {one:.3f} | {two:.3f} | {(one + two) / first:.3f} |"


def build(size: int) -> DeSTSeg:
    """Make a model with random weights, and without a post-processor, whose thresholds come from a training."""
    torch.manual_seed(0)
    return DeSTSeg("resnet18.tv_in1k", pre_trained=False, image_size=(size, size), post_processor=False).eval()


def open_way(way: str, size: int, folder: Path) -> Predict:
    """Prepare a way of judging pictures of a size."""
    if way == "OpenVINO float32":
        run = openvino(folder / str(size) / "weights" / "openvino" / "model.xml")
        return lambda images: run(images.numpy())
    bf16 = way == "PyTorch bfloat16"
    model = inference_copy(build(size).model, torch.bfloat16 if bf16 else torch.float32)

    def run(images: torch.Tensor) -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(images)

    return run


def judge(way: str, size: int, folder: Path) -> None:
    """Print the row of a way; in a process of its own, whose peak of memory is that of the picture."""
    small, large = open_way(way, SMALL, folder), open_way(way, size, folder)
    image = torch.rand(1, 3, SMALL, SMALL)
    quick = statistics.median(repeated(11, partial(small, image))[1:])
    image = torch.rand(1, 3, size, size)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what it is now
    before = megabytes("VmRSS")
    [slow] = repeated(1, partial(large, image))
    peak = megabytes("VmHWM") - before
    print(f"| {way} | {quick * 1000:.0f} | {slow:.1f} | {slow / quick * SMALL**2 / size**2:.2f} | {peak / 1024:.2f} |")


def judging_table(size: int) -> Iterator[str]:
    """Lines of the table."""
    yield f"\n| one picture | {SMALL}², ms | {size}², s | time a pixel, to the first | GiB |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for pictures in (SMALL, size):
            build(pictures).to_openvino(Path(folder) / str(pictures), onnx_kwargs=EXPORTER)
        command = [sys.executable, __file__, "--size", str(size), "--folder", folder, "--way"]
        for way in ("PyTorch float32", "PyTorch bfloat16", "OpenVINO float32"):
            done = subprocess.run([*command, way], check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
            yield done.stdout.splitlines()[-1]


def main() -> None:
    """Print both tables, or the row of a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="height and width of the large picture")
    parser.add_argument("--rounds", type=int, default=3, help="of training steps; 0 to leave them out")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        judge(arguments.way, arguments.size, arguments.folder)
        return
    print(machine())
    if arguments.rounds:
        print("\n".join(training_table(arguments.rounds)), flush=True)
    for line in judging_table(arguments.size):
        print(line, flush=True)


if __name__ == "__main__":
    main()
