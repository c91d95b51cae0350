# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""CPU time of the synthetic anomalies: ours beside the official way and beside anomalib's generator, in one run.

    python examples/benchmark_synthesis.py

The textures are ours, written as jpg files of the size that those of the Describable Textures Dataset have. Both sides
run on one thread; each figure is the median of several rounds, in which the sides take turns.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from anomalib.data.utils.generators import PerlinAnomalyGenerator
from official_style import corrupt, draw_mask, read

from destseg_anomalib.benchmark.measure import processor_name
from destseg_anomalib.synthesis import AnomalyGenerator, TextureBank
from destseg_anomalib.synthesis.builtin_textures import builtin_textures
from destseg_anomalib.synthesis.perlin import perlin_masks

JPG_SIZE = (480, 480)

Side = Callable[[], object]


def write_textures(folder: Path, size: tuple[int, int] = JPG_SIZE) -> list[Path]:
    """Write the built-in textures as jpg files."""
    paths = []
    for index, texture in enumerate(builtin_textures(size)):
        paths.append(folder / f"{index:03}.jpg")
        cv2.imwrite(str(paths[-1]), texture.permute(1, 2, 0).numpy()[..., ::-1])
    return paths


def make_pairs(size: int, batch: int, folder: Path) -> dict[str, tuple[Side, Side]]:
    """What is compared: by name, the other side and ours, each of which makes one batch."""
    jpgs = write_textures(folder)
    rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    textures = builtin_textures((size, size))
    images = torch.from_numpy(rng.integers(0, 256, (batch, 3, size, size), dtype=np.uint8))
    pictures, sources = (list(t.permute(0, 2, 3, 1).contiguous().numpy()) for t in (images, textures))
    generator, theirs = AnomalyGenerator(TextureBank(textures)), PerlinAnomalyGenerator(folder, probability=1.0)

    def ours() -> object:
        return generator(images.float() / 255, draw)

    def official(texture: Callable[[], np.ndarray]) -> object:
        return [corrupt(picture, texture(), rng) for picture in pictures]

    return {
        "official mask": (
            lambda: [draw_mask((size, size), rng) for _ in range(batch)],
            lambda: perlin_masks(batch, (size, size), draw),
        ),
        "official synthesis, texture in memory": (lambda: official(lambda: sources[rng.integers(len(sources))]), ours),
        "official synthesis, texture read from jpg": (
            lambda: official(lambda: np.asarray(read(jpgs[rng.integers(len(jpgs))], (size, size)))),
            ours,
        ),
        "anomalib's PerlinAnomalyGenerator, folder of jpg": (lambda: theirs(images.float() / 255), ours),
    }


def cpu_seconds(side: Side) -> float:
    """CPU time of one call, of all threads."""
    start = time.process_time()
    side()
    return time.process_time() - start


def machine() -> str:
    """Name what the figures depend on."""
    return (
        f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, NumPy {np.__version__}, OpenCV {cv2.__version__}, "
        f"torch {torch.__version__}, load before the start {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images of one batch")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{machine()}\n\n| beside | its ms an image | ours | faster |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, sides in make_pairs(arguments.size, arguments.batch, Path(folder)).items():
            rounds = [[cpu_seconds(side) for side in sides] for _ in range(arguments.rounds + 1)][1:]  # the first warms
            theirs, ours = (1000 / arguments.batch * statistics.median(times) for times in zip(*rounds, strict=True))
            print(f"| {name} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f}x |")


if __name__ == "__main__":
    main()
