# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a job measures beside the evaluator's figures: predictions, speed, memory, and on which machine."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
import psutil
import torch
from anomalib.data import Batch
from anomalib.models import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional

from destseg_anomalib.metrics.images import mask_files

MAP_SIZE = 128  # pixels a side of the maps that are kept, at most
MIB = 2**20


class Predictions(Callback):
    """Keeps raw scores and small raw maps of a test.

    A callback of the trainer comes before those of the model, so the post-processor has not clamped anything yet.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.maps: list[torch.Tensor] = []
        self.masks: dict[str, str] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the mask files."""
        del pl_module
        self.masks = mask_files(trainer)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: object) -> None:
        """Keep the score, and the map at up to 128 pixels a side, of every image of the batch."""
        del trainer, pl_module, args
        maps, scores = outputs.anomaly_map, outputs.pred_score
        size = outputs.batch_size
        if maps is not None:
            maps = maps.detach().float().reshape(size, 1, *maps.shape[-2:])
            scores = maps.flatten(1).amax(1) if scores is None else scores
            scale = min(1.0, MAP_SIZE / max(maps.shape[-2:]))
            small = [max(1, round(side * scale)) for side in maps.shape[-2:]]
            self.maps += functional.interpolate(maps, small, mode="bilinear", antialias=True)[:, 0].cpu()
        labels = [None] * size if outputs.gt_label is None else outputs.gt_label.flatten().int().tolist()
        values = [None] * size if scores is None else scores.detach().flatten().tolist()
        for path, label, score in zip(outputs.image_path, labels, values, strict=True):
            self.rows.append({"image_path": path, "mask_path": self.masks.get(path), "label": label, "score": score})

    def write(self, folder: Path) -> None:
        """Write `images.csv` and `maps/<index>.png`, 8-bit grey between the lowest and the highest value of all maps.

        Args:
            folder: The job's folder.
        """
        table = pd.DataFrame(self.rows)
        if self.maps:
            (folder / "maps").mkdir()
            low = min(float(small.min()) for small in self.maps)
            high = max(float(small.max()) for small in self.maps)
            for index, small in enumerate(self.maps):
                grey = ((small - low) * (255 / max(high - low, 1e-12))).round().byte().numpy()
                (folder / "maps" / f"{index}.png").write_bytes(cv2.imencode(".png", grey)[1].tobytes())
            table["map_file"] = [f"maps/{index}.png" for index in range(len(table))]
        table.to_csv(folder / "images.csv", index_label="index")


class TrainingSpeed(Callback):
    """Counts images and time of training, with the loading of data and without validation."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self._since: float | None = None

    @property
    def images_per_second(self) -> float:
        """Images per second; NaN if nothing was trained."""
        return self.images / self.seconds if self.seconds else float("nan")

    def on_train_epoch_start(self, *args: object) -> None:
        """Start the clock."""
        del args
        self._since = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, *args: object
    ) -> None:
        """Count images."""
        del trainer, pl_module, outputs, args
        self.images += batch.batch_size

    def on_validation_start(self, *args: object) -> None:
        """Stop the clock."""
        del args
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again if training goes on."""
        del pl_module
        self._since = perf_counter() if trainer.state.fn == "fit" else None

    def on_train_epoch_end(self, *args: object) -> None:
        """Stop the clock."""
        del args
        self._stop()

    def _stop(self) -> None:
        if self._since is not None:
            self.seconds += perf_counter() - self._since
            self._since = None


def latency(model: AnomalibModule, trainer: Trainer, batch_size: int, seconds: float) -> dict[str, float]:
    """Time the whole of a model, from test images at its input size to its normalised map and score.

    Args:
        model: The model after a test.
        trainer: The trainer that tested it: device, precision and test images are this one's.
        batch_size: Images in a batch; test images are repeated as needed.
        seconds: How long to go on measuring, at most 100 batches and at least 3.

    Returns:
        `latency_<batch_size>_median_ms` and `latency_<batch_size>_p95_ms`: milliseconds an image.
    """
    device = trainer.strategy.root_device
    model.to(device).eval()
    batch = next(iter(trainer.datamodule.test_dataloader())).image  # type: ignore[attr-defined]
    images = batch[torch.arange(batch_size) % len(batch)].to(device)
    times: list[float] = []
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        model(images)  # the first call allocates and tunes
        begin = perf_counter()
        while len(times) < 3 or (len(times) < 100 and perf_counter() - begin < seconds):
            _wait_for(device)
            start = perf_counter()
            model(images)
            _wait_for(device)
            times.append((perf_counter() - start) * 1000 / batch_size)
    median, p95 = np.percentile(times, [50, 95])
    return {f"latency_{batch_size}_median_ms": float(median), f"latency_{batch_size}_p95_ms": float(p95)}


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_mib(device: torch.device) -> float:
    """Highest use of memory so far, in MiB: by tensors on a CUDA device, else by this whole process.

    Args:
        device: Where the job ran.

    Returns:
        Mebibytes, of this process since it began.

    Example:
        >>> peak_memory_mib(torch.device("cpu")) > 50
        True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / MIB)
    import resource  # noqa: PLC0415 - not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def environment(device: torch.device | None = None) -> dict[str, str]:
    """Say what a job runs on.

    Args:
        device: Where the job runs; None if it never got that far.

    Returns:
        Versions of `anomalib`, `torch` and `destseg_anomalib`; `machine`: name, processor and threads;
        `git_revision` of this package's source, empty where it was installed without.

    Example:
        >>> environment()["anomalib"].startswith("2.")
        True
    """
    on_gpu = device is not None and device.type == "cuda"
    processor = torch.cuda.get_device_name(device) if on_gpu else processor_name()
    return {
        "anomalib": version("anomalib"),
        "torch": version("torch"),
        "destseg_anomalib": version("destseg-anomalib"),
        "machine": f"{platform.node()}: {processor}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "git_revision": _git_revision(),
    }


def processor_name() -> str:
    """Name of the processor, which the platform module does not know on Linux.

    Example:
        >>> bool(processor_name())
        True
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_revision() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip()
