# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Time of training and of inference: ours, through anomalib's engine, beside the official way, in one run.

    python examples/benchmark_speed.py --data datasets/MVTecAD/bottle

Without ``--data`` the demo set is used. The networks have random weights, which changes no time. The other side is
described in `official_style.py`. Run it on a machine that does nothing else; on two cores it takes ten minutes a model.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.engine import Engine
from benchmark_synthesis import machine, write_textures
from inference_paths import inference_table
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from official_style import OfficialStyleLoop

import destseg_anomalib
from destseg_anomalib.data import DemoSurfaces
from destseg_anomalib.synthesis import rotation_of_category
from destseg_anomalib.training.batches import StepSampler

STEPS = (200, 400)  # of the training that is estimated, per phase
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class Setting(NamedTuple):
    """What both sides are given: data and sizes, and how many steps of each phase are timed."""

    datamodule: AnomalibDataModule
    category: str
    backbone: str
    size: tuple[int, int]
    batch: int
    steps: int


class Timing(NamedTuple):
    """Seconds of a side: one step of each phase, parts of these steps by name, and what a training costs before."""

    steps: tuple[float, float]
    parts: list[dict[str, float]]
    start: float

    def training(self) -> float:
        """Seconds of the whole training."""
        return self.start + sum(count * seconds for count, seconds in zip(STEPS, self.steps, strict=True))


class Stopwatch(Callback):
    """Times every training step, from the end of the one before, and the parts that no loop can do without."""

    def __init__(self) -> None:
        self.began = 0.0
        self.steps: list[dict[str, float]] = []
        self._parts: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read all images once, as the first pass of a long training does, and watch forward and optimiser."""
        images = trainer.train_dataloader.dataset
        for item in StepSampler(images, batch_size=1, batches=len(images), num_replicas=1, rank=0, seed=0):
            images[item]
        for name in ("student_loss", "segmentation_losses"):
            setattr(pl_module.model, name, self._timed(getattr(pl_module.model, name)))
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._stop("optimiser"))
        self.began = self._last = time.perf_counter()

    def _timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:  # noqa: ANN401
            self._start()
            result = forward(*args)
            self._stop("forward")
            return result

        return wrapped

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _stop(self, part: str) -> None:
        self._parts[part] = time.perf_counter() - self._started

    def on_before_backward(self, *_: object) -> None:
        """Begin of the backward pass."""
        self._start()

    def on_after_backward(self, *_: object) -> None:
        """End of the backward pass."""
        self._stop("backward")

    def on_before_optimizer_step(self, *_: object) -> None:
        """Begin of the optimiser's step, which ends in a hook of the optimiser."""
        self._start()

    def on_train_batch_end(self, *_: object) -> None:
        """End of the step."""
        now = time.perf_counter()
        step = now - self._last
        self.steps.append(self._parts | {"step": step, "rest": step - sum(self._parts.values())})
        self._parts, self._last = {}, now


def time_ours(name: str, setting: Setting, precision: str, folder: Path, crop_size: int | None = None) -> Timing:
    """Train through the engine, on whole images or on crops."""
    seed_everything(0, verbose=False)
    count = setting.steps + 1  # the first step of a phase warms up
    model = getattr(destseg_anomalib, name)(
        backbone=setting.backbone,
        pre_trained=False,
        image_size=setting.size,
        crop_size=crop_size,
        student_steps=count,
        segmentation_steps=count,
        # Small rates take the same time, and do not diverge on images and batches as small as a test's.
        student_lr=1e-3,
        segmentation_lr=1e-3,
        head_lr=1e-3,
        rotation=rotation_of_category(setting.category),
    )
    watch = Stopwatch()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    engine = Engine(
        default_root_dir=folder, accelerator="cpu", devices=1, precision=precision, callbacks=[watch], **quiet
    )
    begin = time.perf_counter()
    engine.fit(model, datamodule=setting.datamodule)
    phases = watch.steps[1:count], watch.steps[count + 1 :]
    parts = [{key: statistics.median(step[key] for step in steps) for key in steps[0]} for steps in phases]
    return Timing((parts[0]["step"], parts[1]["step"]), parts, watch.began - begin)


def time_official(name: str, setting: Setting, precision: str, folder: Path) -> Timing:
    """Train as the official loop does, on a model of the same architecture."""
    torch.manual_seed(0)
    loop = OfficialStyleLoop(
        getattr(destseg_anomalib, name)(backbone=setting.backbone, pre_trained=False).model,
        images=[Path(p) for p in setting.datamodule.train_data.samples.image_path],
        textures=write_textures(folder),
        size=setting.size,
        rotation=rotation_of_category(setting.category),
        batch_size=setting.batch,
        bf16=precision == PRECISIONS["bfloat16"],
    )
    seconds = [repeated(setting.steps + 1, lambda phase=phase: loop.step(phase))[1:] for phase in (1, 2)]
    data = repeated(3, loop.batch)
    return Timing(tuple(map(statistics.median, seconds)), [{"data": statistics.median(data)}] * 2, 0.0)


def repeated(count: int, function: Callable[[], object]) -> list[float]:
    """Seconds of each of several calls."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def training_tables(name: str, setting: Setting) -> Iterable[str]:
    """Lines of the tables on training."""
    timings = {}
    for label, precision in PRECISIONS.items():
        for side, function in (("official", time_official), ("ours", time_ours)):
            with tempfile.TemporaryDirectory() as folder:
                timings[label, side] = function(name, setting, precision, Path(folder))
    yield f"\nOne training step of {name}, {setting.batch} images of {setting.size[0]}x{setting.size[1]}\n"
    yield "| precision | phase | official s | of which data | ours s | forward | backward | optimiser | rest | faster |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for label in PRECISIONS:
        theirs, ours = timings[label, "official"], timings[label, "ours"]
        for phase in (0, 1):
            step, parts = ours.steps[phase], ours.parts[phase]
            cells = [f"{parts[key] / step:.1%}" for key in ("forward", "backward", "optimiser", "rest")]
            times = f"{theirs.steps[phase]:.2f} | {theirs.parts[phase]['data']:.2f} | {step:.2f}"
            yield f"| {label} | {phase + 1} | {times} | {' | '.join(cells)} | {theirs.steps[phase] / step:.2f}x |"
    yield f"\nA training of {STEPS[0]} + {STEPS[1]} steps, estimated from these steps and, for ours, the start\n"
    yield "| official | min | ours | min | of which start | faster |\n|---|---|---|---|---|---|"
    for left, right in (("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")):
        theirs, ours = timings[left, "official"].training() / 60, timings[right, "ours"].training() / 60
        start = timings[right, "ours"].start
        yield f"| {left} | {theirs:.1f} | {right} | {ours:.1f} | {start:.0f} s | {theirs / ours:.2f}x |"


def open_data(folder: Path | None, batch: int, root: Path) -> tuple[AnomalibDataModule, str]:
    """Open a category in MVTec AD's layout, or make the demo set; returns its name as well."""
    if folder is None:
        datamodule, category = DemoSurfaces(root=root, train_batch_size=batch), "brick"
    else:
        folder = folder.resolve()
        category = folder.name
        datamodule = MVTecAD(root=folder.parent, category=category, train_batch_size=batch, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule, category


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a category in MVTec AD's layout")
    parser.add_argument("--models", nargs="+", default=["DeSTSeg", "PFADSeg"], choices=["DeSTSeg", "PFADSeg"])
    parser.add_argument("--parts", nargs="+", default=["training", "inference"], choices=["training", "inference"])
    parser.add_argument("--backbone", default="resnet18.tv_in1k")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images of one training batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="images of an inference batch")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each phase, after one to warm up")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as root:
        datamodule, category = open_data(arguments.data, arguments.batch, Path(root))
        size = (arguments.size, arguments.size)
        setting = Setting(datamodule, category, arguments.backbone, size, arguments.batch, arguments.steps)
        for name in arguments.models:
            if "training" in arguments.parts:
                print("\n".join(training_tables(name, setting)), flush=True)
            if "inference" in arguments.parts:
                for line in inference_table(name, arguments.backbone, arguments.size, arguments.batches):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
