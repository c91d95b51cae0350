# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a training leaves: its last step, an average of its weights, and that with the distances as second witness.

    python examples/averaged_weights.py configs/data/folder.yaml --name tile --seeds 0 1 2 --out averaged_weights.csv

All maps of one seed come from one training: teacher and student run once for each test image, the segmentation network
once for each kind of weights at each step that is looked at, in the precision of the training as Engine tests it. Those
steps are the last five at distances of 2 % of phase 2, and with ``--curve`` seven more on the way there. Rows are added
to the file as they are measured, and a seed that is there is not trained again; at the end the whole file is printed as
three tables: figures after the training, mean ± std over the seeds; how far they spread over the seeds and over the
last five steps; figures by step.

With ``--recount``, also the last step with batch-norm statistics of many batches: is chance in weights, or in these?

``--training`` tries something else: ``falling_rate``, learning rates that fall to zero over the last fifth of phase 2,
or ``averaged_student``, a student that is averaged in phase 1 as well, and read in phase 2 as it is on average.
"""

import argparse
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
import torch
import yaml
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.engine import Engine
from benchmark_synthesis import machine
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from plot_steps import RUN, on_the_way
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.functional import auroc

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFiguresMetric
from destseg_anomalib.models.similarity import upsample
from destseg_anomalib.models.student_teacher import StudentTeacherModel
from destseg_anomalib.training.averaging import WeightAverage

FIGURES = ["image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "IAP", "IAP@90"]
WITNESSES = (0.0, 0.25, 0.5, 1.0)
BITS = 18  # of a background score: dozens of maps are ranked at once
RECOUNTED = 25  # batches that statistics are counted over
SHORTER = 30  # window of the shorter average
LAST = 5  # steps at distances of 2 % of phase 2


class FallingRate:
    """Mixin whose learning rates fall to zero over the last fifth of phase 2."""

    def configure_optimizers(self) -> dict[str, Any]:
        """Add the schedule to the optimiser."""
        optimizer = super().configure_optimizers()
        fifth = self.hparams.segmentation_steps / 5
        rates = LambdaLR(optimizer, lambda step: min(1.0, (self.total_steps - step) / fifth))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


class AveragedStudent(Callback):
    """Averages the student over phase 1 and leaves it so."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the average."""
        del trainer
        self.average = WeightAverage(pl_module.model.student)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Take in a step of phase 1, and put the average in place after the last one."""
        del args
        student_steps = pl_module.hparams.student_steps
        if trainer.global_step <= student_steps:
            self.average.update()
        if trainer.global_step == student_steps:
            self.average.serve()


class Snapshots(Callback):
    """Keeps the segmentation network as it is after some steps: as the step left it, and on average.

    A shorter average, of about the last thirtieth of the steps, lags less behind, and varies more.
    """

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps
        self.kept: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
        self.batches: deque[torch.Tensor] = deque(maxlen=RECOUNTED)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the shorter average."""
        del trainer
        self.generator = pl_module.generator
        self.shorter = WeightAverage(pl_module.model.segmentation, window=SHORTER)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Keep all three, and the batch."""
        self.batches.append(args[1].image)
        done = trainer.global_step - pl_module.hparams.student_steps
        if done > 0:
            self.shorter.update()
        if done in self.steps:
            average, shorter = pl_module.average, self.shorter.averaged
            kinds = {"last step": average.last, "averaged": average.averaged, "averaged, shorter": shorter}
            for kind, state in kinds.items():
                self.kept[done, kind] = {name: value.cpu().clone() for name, value in state.items()}


class Side(NamedTuple):
    """One kind of map: weights at a step, and how much the distances say."""

    step: int
    kind: str
    witness: float


def steps_to_look_at(steps: int, *, curve: bool) -> set[int]:
    """Pick steps of phase 2: the last five at distances of 2 %, and perhaps others on the way."""
    last = {steps - round(0.02 * steps * back) for back in range(LAST)}
    shares = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75) if curve else ()
    return last | {max(1, round(share * steps)) for share in shares}


def train(
    arguments: argparse.Namespace, seed: int, data: AnomalibDataModule
) -> tuple[DeSTSeg | PFADSeg, Snapshots, float]:
    """Train once; return the model, what was kept of it, and the minutes."""
    seed_everything(seed, verbose=False)
    base = {"DeSTSeg": DeSTSeg, "PFADSeg": PFADSeg}[arguments.model]
    model_class = type(arguments.model, (FallingRate, base), {}) if arguments.training == "falling_rate" else base
    model = model_class(
        student_steps=arguments.steps[0],
        segmentation_steps=arguments.steps[1],
        backbone=arguments.backbone,
        backbone_weights=arguments.weights,
        textures=arguments.textures,
        image_size=(arguments.size, arguments.size),
        top_t=max(1, 100 * arguments.size**2 // 256**2),  # the share of the picture that the papers average
        distance_weight=1.0,  # changes no training; maps with other weights are made of what it says
    )
    snapshots = Snapshots(steps_to_look_at(arguments.steps[1], curve=arguments.curve))
    callbacks = [snapshots, *([AveragedStudent()] if arguments.training == "averaged_student" else [])]
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        engine = Engine(default_root_dir=folder, precision=arguments.precision, callbacks=callbacks, **quiet)
        engine.fit(model, datamodule=data)
    return model, snapshots, (time.monotonic() - start) / 60


@torch.no_grad()
def recount(model: DeSTSeg | PFADSeg, snapshots: Snapshots, precision: str) -> None:
    """Add the last steps with batch-norm statistics of many batches, corrupted as in a step."""
    network, generator = model.model.eval(), torch.Generator().manual_seed(0)
    for (step, kind), state in [*snapshots.kept.items()][-3 * LAST :]:
        if kind != "last step":
            continue
        network.segmentation.load_state_dict(state)
        for layer in network.segmentation.train().modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches
        for images in snapshots.batches:
            with Fabric(accelerator="cpu", precision=precision).autocast():
                network.segment(*network.features(snapshots.generator(images, generator).corrupted))
        counted = network.segmentation.state_dict()
        snapshots.kept[step, "last step, recounted"] = {name: value.clone() for name, value in counted.items()}


@torch.no_grad()
def maps(
    model: StudentTeacherModel, kept: dict, images: torch.Tensor, autocast: Callable[[], AbstractContextManager]
) -> Iterator[tuple[Side, torch.Tensor]]:
    """Yield maps of all kinds, of the size of the images."""
    with autocast():
        teacher, student = model.features(images)
        said = model.witness(torch.zeros(()), teacher, student).float()
    for (step, kind), state in kept.items():
        model.segmentation.load_state_dict(state)
        with autocast():
            logits = model.segment(teacher, student).float()
        for weight in WITNESSES:
            yield Side(step, kind, weight), upsample((logits + weight * said).sigmoid(), images.shape[-2:])


def measure(
    model: DeSTSeg | PFADSeg, snapshots: Snapshots, data: AnomalibDataModule, precision: str
) -> Iterator[dict[str, Any]]:
    """Yield a row of figures for each kind of map."""
    network = model.model.cpu().eval()
    autocast = Fabric(accelerator="cpu", precision=precision).autocast
    stores: dict[Side, PixelFiguresMetric] = {}
    scores: dict[Side, list[torch.Tensor]] = {}
    labels = []
    for batch in data.test_dataloader():
        images, masks = model.pre_processor.transform(batch.image, batch.gt_mask)
        labels.append(batch.gt_label)
        for side, anomaly_map in maps(network, snapshots.kept, images, autocast):
            stores.setdefault(side, PixelFiguresMetric(bits=BITS)).update(anomaly_map, masks)
            scores.setdefault(side, []).append(anomaly_map.flatten(1).topk(network.top_t).values.mean(dim=1))
    for side, store in stores.items():
        figures = store.compute()
        image_auroc = auroc(torch.cat(scores[side]), torch.cat(labels).long(), task="binary")
        values = (
            float(image_auroc),
            figures.auroc,
            figures.average_precision,
            figures.per_region_overlap,
            mean_precision(figures.curve.precision),
            precision_at(figures.curve.precision, 0.9),
        )
        yield {"step": side.step, "map": side.kind, "witness": side.witness, **dict(zip(FIGURES, values, strict=True))}


def collect(
    path: Path, run: dict[str, Any], seeds: Iterable[int], measured: Callable[[int], Iterable[dict[str, Any]]]
) -> pd.DataFrame:
    """Add rows to a file, seed by seed, of those that it lacks of a run; return all that it has."""
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*run, "seed"])
    for seed in seeds:
        known = run | {"seed": seed}
        if (rows[list(known)] == pd.Series(known)).all(axis=1).any():
            continue
        new = pd.DataFrame([known | row for row in measured(seed)])
        rows = pd.concat([rows, new]) if len(rows) else new
        rows.to_csv(path, index=False)
    return rows


def show(table: pd.DataFrame) -> None:
    """Print a table that can be pasted."""
    cells = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    for row in itertools.chain([table.columns, ["---"] * len(table.columns)], cells.to_numpy()):
        print("|", " | ".join(row), "|")
    print()


def report(rows: pd.DataFrame) -> None:
    """Print the three tables."""
    side, final = [*RUN, "map", "witness"], rows[rows.step == rows.segmentation_steps]
    print("After the training, mean ± std over the seeds:\n")
    groups = final.groupby(side)[FIGURES]
    cells = groups.mean().map("{:.3f}".format) + " ± " + groups.std(ddof=0).map("{:.3f}".format)
    show(cells.join(final.groupby(side).agg(seeds=("seed", "nunique"), minutes=("minutes", "mean"))).reset_index())
    print("Spread, std over the seeds, and over the last five steps as mean of the seeds:\n")
    late = rows[rows.step > 0.91 * rows.segmentation_steps]
    over_steps = late.groupby([*side, "seed"])[FIGURES[-2:]].std(ddof=0).groupby(side).mean()
    show(groups.std(ddof=0)[FIGURES[-2:]].join(over_steps, rsuffix=" over steps").reset_index())
    print("By step, mean of the seeds that were looked at on the way:\n")
    curves = on_the_way(rows)
    show(curves[curves.witness.isin([0.0, 0.5])].groupby([*side, "step"])[FIGURES].mean().reset_index())


def main() -> None:
    """Train what the file lacks, and print the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="configuration of anomalib data, as in configs/data")
    parser.add_argument("--name", help="of the set in the tables; its name or category by default")
    parser.add_argument("--model", choices=["DeSTSeg", "PFADSeg"], default="DeSTSeg")
    parser.add_argument("--training", choices=["plain", "falling_rate", "averaged_student"], default="plain")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", nargs=2, type=int, default=[200, 400], help="of student and segmentation network")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="pixels that images are resized to")
    parser.add_argument("--backbone", default="resnet18.tv_in1k")
    parser.add_argument("--weights", type=Path, help="file of teacher weights")
    parser.add_argument("--textures", help="folder of pictures for anomalies")
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on hardware without bfloat16")
    parser.add_argument("--recount", action="store_true", help="look at the statistics of batch norms alone, too")
    parser.add_argument("--curve", action="store_true", help="look at steps on the way, too")
    parser.add_argument("--out", type=Path, default=Path("averaged_weights.csv"))
    arguments = parser.parse_args()

    config = yaml.safe_load(arguments.data.read_text(encoding="utf-8"))
    config["init_args"] |= {"train_batch_size": arguments.batch, "eval_batch_size": arguments.batch, "num_workers": 0}
    name = arguments.name or config["init_args"].get("category") or config["init_args"].get("name")
    run = dict(zip(RUN, (name, arguments.model, arguments.training, *arguments.steps), strict=True))

    def rows_of(seed: int) -> Iterator[dict[str, Any]]:
        data = get_datamodule(config)
        model, snapshots, minutes = train(arguments, seed, data)
        if arguments.recount:
            recount(model, snapshots, arguments.precision)
        known = {"minutes": round(minutes, 1), "machine": machine()}
        yield from (known | row for row in measure(model, snapshots, data, arguments.precision))

    report(collect(arguments.out, run, arguments.seeds, rows_of))


if __name__ == "__main__":
    main()
