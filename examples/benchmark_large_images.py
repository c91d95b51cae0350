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

import numpy as np
from benchmark_speed import Setting, repeated, time_ours
from benchmark_synthesis import machine
from inference_paths import EXPORTER, WAYS, Subject, megabytes

from destseg_anomalib import DemoSurfaces

BACKBONE = "resnet18.tv_in1k"
SMALL = 256
TRAININGS = {  # the demo's pictures, and whether they are kept in memory
    "whole pictures of 256 x 256": (SMALL, True),
    "crops of 1024 x 1024 in memory": (1024, True),
    "crops of 1024 x 1024 in a file": (1024, False),
}


def steps(size: int, *, in_memory: bool, folder: Path) -> tuple[float, float]:
    """Seconds of a step of each phase."""
    data = DemoSurfaces(root=folder, size=size, train_batch_size=8, num_workers=0)
    setting = Setting(data, data.category, BACKBONE, (size, size), batch=8, steps=3)
    with patch("destseg_anomalib.training.images.CACHE_SHARE", 0.25 if in_memory else 0.0):
        return time_ours("DeSTSeg", setting, "bf16-mixed", folder, crop_size=None if size == SMALL else SMALL).steps


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


def subject(size: int, folder: Path) -> Subject:
    """The model for pictures of a size, and where its exported files lie."""
    return Subject("DeSTSeg", BACKBONE, size, folder / str(size))


def judge(way: str, size: int, folder: Path) -> None:
    """Print the row of a way; in a process of its own, whose peak of memory is that of the picture."""
    small, large = (WAYS[way](subject(side, folder)) for side in (SMALL, size))
    rng = np.random.default_rng(0)
    image = rng.random((1, 3, SMALL, SMALL), dtype=np.float32)
    quick = statistics.median(repeated(11, partial(small, image))[1:])
    image = rng.random((1, 3, size, size), dtype=np.float32)
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
        for side in (SMALL, size):
            exported = subject(side, Path(folder))
            exported.build().to_openvino(exported.folder, onnx_kwargs=EXPORTER)
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
