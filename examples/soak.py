# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Train for long on small images, and watch memory, open files and speed: none of them may drift.

python examples/soak.py [--model DeSTSeg] [--steps 2000] [--every 100] [--size 64]

Half of the steps train the student, half the segmentation network. Exits with 1, and says what drifted, unless in each
phase, after its first two intervals, memory grows by less than 5 %, open files do not grow, and every interval is
within 10 % of the phase's usual speed. Without a GPU one thread works, and speed is in steps per second of its
processor time, so that other programs on the machine count little: a quarter of an hour.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psutil
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer, seed_everything

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.data import DemoSurfaces

MODELS = {"DeSTSeg": DeSTSeg, "PFADSeg": PFADSeg}
WARM_UP = 2  # intervals
MEMORY, SPEED = 0.05, 0.10


@dataclass
class Interval:
    """What was measured between two validations: memory in MiB, speed in steps per second."""

    phase: int
    step: int
    memory: float
    files: int
    speed: float


class Watch(Callback):
    """Measures before each validation; time that goes into validation or checkpoints does not count as training."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.process = psutil.Process()
        self.intervals: list[Interval] = []
        self.start = self.busy = 0.0

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ANN401
        """Start the clock."""
        del args
        self.start = now()

    def on_train_batch_end(self, trainer: Trainer, pl_module: DeSTSeg, *args: Any) -> None:  # noqa: ANN401
        """Stop the clock, and measure at the end of an interval."""
        del args
        self.busy += now() - self.start
        if trainer.global_step % self.every == 0:
            phase = 1 + (trainer.global_step > pl_module.hparams.student_steps)
            memory, files = self.process.memory_info().rss / 2**20, self.process.num_fds()
            self.intervals.append(Interval(phase, trainer.global_step, memory, files, self.every / self.busy))
            self.busy = 0.0


def now() -> float:
    """Return seconds: of the wall where a GPU works, after it has; else of this process's work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def drifts(intervals: list[Interval]) -> list[str]:
    """Say, in a sentence each, what drifted after the warm-up of a phase."""
    found = []
    for phase in (1, 2):
        warm, *later = [interval for interval in intervals if interval.phase == phase][WARM_UP - 1 :]
        usual = statistics.median(interval.speed for interval in later)
        for interval in later:
            where = f"at step {interval.step}"
            if interval.memory > (1 + MEMORY) * warm.memory:
                found.append(f"Memory {where} is {interval.memory:.0f} MiB, {warm.memory:.0f} at step {warm.step}.")
            if interval.files > warm.files:
                found.append(f"Open files {where} are {interval.files}, {warm.files} at step {warm.step}.")
            if abs(interval.speed / usual - 1) > SPEED:
                found.append(f"Speed {where} is {interval.speed:.2f} steps a second, usually {usual:.2f}.")
    return found


def soak(model: type[DeSTSeg], steps: int, every: int, size: int) -> list[Interval]:
    """Train, with a validation at the end of each interval, and return what was measured."""

    class Validated(model):  # type: ignore[misc, valid-type]
        @property
        def trainer_arguments(self) -> dict[str, Any]:
            return super().trainer_arguments | {"val_check_interval": every}

    seed_everything(0)
    half = steps // 2
    watch = Watch(every)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, devices=1, logger=False, callbacks=[watch], enable_progress_bar=False)
        data = DemoSurfaces(train_batch_size=4)
        arguments = {"pre_trained": False, "image_size": (size, size), "visualizer": False}
        engine.fit(Validated(**arguments, student_steps=half, segmentation_steps=steps - half), datamodule=data)
    return watch.intervals


def main() -> None:
    """Soak, print the table, and exit with 1 if anything drifted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="DeSTSeg")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.steps % (2 * arguments.every) or arguments.steps < 6 * arguments.every:
        parser.error("--steps must be a multiple of twice --every, and at least six times --every.")
    torch.set_num_threads(1)  # several would spin while they wait for each other, which counts as work
    intervals = soak(MODELS[arguments.model], arguments.steps, arguments.every, arguments.size)
    print(pd.DataFrame(intervals).to_string(index=False, float_format="{:.2f}".format))
    found = drifts(intervals)
    print(*found, sep="\n")
    print("Nothing drifted." if not found else f"{len(found)} measurements drifted.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
