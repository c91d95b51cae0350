# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What it costs to check images and masks while a test reads them: a checked test beside an unchecked one, in one run.

    python examples/benchmark_reading.py

The images are noise, the masks discs; the model is DeSTSeg on timm's smallest residual network and without segmentation
network, so that the share of reading is larger than it ever is in use. Each batch of the test is read both ways, in
turns, and each side is the time of the whole test less that of the other side's readings. Times are of the processor,
and no worker reads ahead.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer

from destseg_anomalib import DeSTSeg
from destseg_anomalib.benchmark.measure import processor_name
from destseg_anomalib.data.reading import check_data, check_folder, release_data


class BothWays(Callback):
    """Reads each batch of a test as anomalib does and with checks, and adds up the seconds of both."""

    def __init__(self) -> None:
        self.names = self.unchecked = self.checked = 0.0
        self.batches = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of the reading that the model's setup has put on the data set."""
        del pl_module
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        release_data(trainer)
        start = time.process_time()
        check_folder(datamodule)
        check_data(trainer, "test")
        self.names = time.process_time() - start
        self.dataset, self.reading = datamodule.test_data, datamodule.test_data.__getitems__
        self.dataset.__getitems__ = self.read

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the data set as it was."""
        del trainer, pl_module
        del self.dataset.__getitems__

    def read(self, indices: Sequence[int]) -> list[Any]:
        """Read a batch twice."""
        items: list[Any] = []
        for side in ("checked", "unchecked") if self.batches % 2 else ("unchecked", "checked"):
            start = time.process_time()
            items = self.reading(indices) if side == "checked" else [self.dataset[index] for index in indices]
            setattr(self, side, getattr(self, side) + time.process_time() - start)
        self.batches += 1
        return items


def write_set(root: Path, images: int, share: float, size: int, ending: str) -> Folder:
    """Write a test set, of which a share is defective and has masks, and make its data module."""
    rng = np.random.default_rng(0)
    folders = ("train/good", "test/good", "test/hole", "masks/hole")
    for folder in folders:
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / f"train/good/0.{ending}"), rng.integers(0, 256, (size, size, 3), np.uint8))
    for index in range(images):
        kind = "hole" if index < share * images else "good"
        # Blurred, so that a file is of the size that a photograph has.
        picture = cv2.GaussianBlur(rng.integers(0, 256, (size, size, 3), np.uint8), (0, 0), 2)
        cv2.imwrite(str(root / f"test/{kind}/{index:05}.{ending}"), picture)
        if kind == "hole":
            centre = [int(place) for place in rng.integers(0, size, 2)]
            mask = cv2.circle(np.zeros((size, size), np.uint8), centre, size // 12, 255, -1)
            cv2.imwrite(str(root / f"masks/hole/{index:05}.png"), mask)
    batches = {"train_batch_size": 2, "eval_batch_size": 32, "num_workers": 0, "val_split_mode": "same_as_test"}
    normal, normal_test, abnormal, masks = folders
    return Folder(
        "noise",
        root=root,
        normal_dir=normal,
        normal_test_dir=normal_test,
        abnormal_dir=abnormal,
        mask_dir=masks,
        **batches,
    )


def seconds(model: DeSTSeg, data: Folder, folder: Path, both: BothWays) -> float:
    """Processor time of a test that reads both ways and looks at names twice."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, callbacks=[both], **quiet)
    start = time.process_time()
    engine.test(model, datamodule=data, verbose=False)
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.3, help="of the images that are defective and have masks")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), Python "
        f"{platform.python_version()}, Pillow {PIL.__version__}, torch {torch.__version__}, load before the start "
        f"{os.getloadavg()[0]:.1f}\n"
    )
    print("| files | unchecked test s | checked s | slower | reading an image, unchecked ms | checked ms | names s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        size = (arguments.size, arguments.size)
        model = DeSTSeg(backbone="test_resnet", pre_trained=False, image_size=size, segmentation=False)
        model.visualizer = None
        for ending in ("png", "jpg"):
            root, both = Path(folder) / ending, BothWays()
            data = write_set(root, arguments.images, arguments.share, arguments.size, ending)
            total = seconds(model, data, root, both)
            without, checked = total - both.checked - 2 * both.names, total - both.unchecked - both.names
            per_image = [1000 * seconds_of / arguments.images for seconds_of in (both.unchecked, both.checked)]
            print(
                f"| {ending} | {without:.1f} | {checked:.1f} | {checked / without - 1:+.1%} | {per_image[0]:.2f} | "
                f"{per_image[1]:.2f} | {both.names:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
