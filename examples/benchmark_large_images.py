# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What large pictures cost: a step with crops beside one with whole pictures of that size, and a picture in tiles.

    python examples/benchmark_large_images.py

Prints seconds a step of training on pictures of 256 x 256, and on crops of that size of the demo's pictures of
1024 x 1024, kept in memory and in a file; then the time and memory of judging a picture of 4096 x 4096, beside the time
of one of 256 x 256. The networks have random weights. Run it on a machine that does nothing else; eight minutes on two
cores.

    python examples/benchmark_large_images.py --pictures 2000

Prints the memory of a training that sees each of so many pictures of 2048 x 2048, which need 12 MiB of disk each.
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

import cv2
import numpy as np
from anomalib.data import Folder
from anomalib.engine import Engine
from benchmark_speed import Setting, repeated, time_ours
from benchmark_synthesis import machine
from inference_paths import EXPORTER, WAYS, Subject, megabytes

from destseg_anomalib import DemoSurfaces, DeSTSeg

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
    """The model for pictures of a size, trained on crops if they are large, and where its exported files lie."""
    return Subject("DeSTSeg", BACKBONE, size, folder / str(size), crop_size=SMALL if size > SMALL else None)


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


def many(count: int, size: int = 2048, batch: int = 8, different: int = 16) -> Iterator[str]:
    """Lines on a training in which each of many pictures is read, kept and cut."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        pictures, test = Path(folder, "good"), Path(folder, "test")
        pictures.mkdir()
        test.mkdir()
        for place in range(different):
            picture = cv2.resize(rng.integers(256, size=(size // 4, size // 4, 3), dtype=np.uint8), (size, size))
            cv2.imwrite(str(pictures / f"{place}.png"), picture)
        for place in range(different, count):
            (pictures / f"{place}.png").hardlink_to(pictures / f"{place % different}.png")
        (test / "0.png").hardlink_to(pictures / "0.png")
        sets = {"normal_dir": "good", "normal_test_dir": "test", "val_split_mode": "same_as_test"}
        data = Folder("many", root=folder, train_batch_size=batch, num_workers=0, **sets)
        lengths = {"student_steps": -(-count // batch), "segmentation_steps": 3}
        model = DeSTSeg(BACKBONE, pre_trained=False, image_size=(size, size), crop_size=SMALL, **lengths)
        quiet = {"logger": False, "enable_progress_bar": False, "limit_val_batches": 0, "precision": "bf16-mixed"}
        with patch("destseg_anomalib.training.images.CACHE_SHARE", 0.0):
            Engine(default_root_dir=folder, accelerator="cpu", **quiet).fit(model, datamodule=data)
    yield f"\n| {count} pictures of {size}², decoded | all of the process at its peak, GiB |\n|---|---|"
    yield f"| {count * 3 * size**2 / 2**30:.1f} GiB in a file | {megabytes('VmHWM') / 1024:.2f} |"


def main() -> None:
    """Print both tables, or the row of a way, or what many pictures take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="height and width of the large picture")
    parser.add_argument("--rounds", type=int, default=3, help="of training steps; 0 to leave them out")
    parser.add_argument("--pictures", type=int, help="train on so many large pictures, and measure nothing else")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        judge(arguments.way, arguments.size, arguments.folder)
        return
    print(machine())
    if arguments.pictures is not None:
        print("\n".join(many(arguments.pictures)))
        return
    if arguments.rounds:
        print("\n".join(training_table(arguments.rounds)), flush=True)
    for line in judging_table(arguments.size):
        print(line, flush=True)


if __name__ == "__main__":
    main()
