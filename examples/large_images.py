# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Small defects in large pictures: reduced to 256 x 256, or trained on crops and judged whole or in tiles.

    python examples/large_images.py --size 1024 1024
    python examples/large_images.py configs/data/folder.yaml --size 1280 512 --patchcore --out large_images.csv

Every side is measured on the same ground truth, that of the large size; maps of reduced pictures are enlarged to it.
Each model is trained for the same steps of as many images of as many pixels. Rows are added to the file as they are
measured; at the end it is printed as a table, mean and standard deviation over the seeds.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
import yaml
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, Patchcore
from anomalib.pre_processing import PreProcessor
from averaged_weights import BITS, collect, show
from benchmark_synthesis import machine
from lightning.fabric import Fabric
from lightning.pytorch import seed_everything
from torch.nn import functional
from torchvision.transforms.v2 import Compose, Normalize

from destseg_anomalib import DemoSurfaces, DeSTSeg, RoundedBilinearResize
from destseg_anomalib.benchmark.pretrained import pretrained_from
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFiguresMetric
from destseg_anomalib.models.tiles import square

SMALL = (256, 256)
FIGURES = ["pixel_AP", "pixel_AUPRO", "IAP", "IAP@90"]


def open_data(arguments: argparse.Namespace) -> AnomalibDataModule:
    """Make the data module of a training."""
    batches = {"train_batch_size": arguments.batch, "eval_batch_size": 1, "num_workers": 0}
    if arguments.data is None:
        return DemoSurfaces(size=1024, **batches)
    config = yaml.safe_load(arguments.data.read_text(encoding="utf-8"))
    config["init_args"] |= batches
    return get_datamodule(config)


def train(arguments: argparse.Namespace, model: AnomalibModule, seed: int) -> tuple[AnomalibDataModule, float, float]:
    """Train; return the data, minutes, and MiB that the process has grown by."""
    data, process, start = open_data(arguments), psutil.Process(), time.monotonic()
    before = process.memory_info().rss
    seed_everything(seed, verbose=False)
    with TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        precision = arguments.precision if isinstance(model, DeSTSeg) else "32-true"
        Engine(default_root_dir=folder, precision=precision, **quiet).fit(model, datamodule=data)
    return data, (time.monotonic() - start) / 60, (process.memory_info().rss - before) / 2**20


@torch.no_grad()
def measure(
    predict: Callable[[torch.Tensor], torch.Tensor],
    data: AnomalibDataModule,
    size: tuple[int, int],
    seen: tuple[int, int],
) -> dict[str, float]:
    """Judge the test pictures one by one: figures on ground truth of a size, seconds a picture."""
    store, seconds = PixelFiguresMetric(bits=BITS), 0.0
    large, small = RoundedBilinearResize(size), RoundedBilinearResize(seen)
    for item in data.test_data:
        _, mask = large(item.image, item.gt_mask)
        image = small(item.image)
        start = time.monotonic()
        anomaly_map = predict(image[None])
        seconds += time.monotonic() - start
        store.update(functional.interpolate(anomaly_map.float(), size, mode="bilinear"), mask[None])
    figures = store.compute()
    precision = figures.curve.precision
    values = (
        figures.average_precision,
        figures.per_region_overlap,
        mean_precision(precision),
        precision_at(precision, 0.9),
    )
    return dict(zip(FIGURES, values, strict=True)) | {"s a picture": seconds / len(data.test_data)}


def destseg(arguments: argparse.Namespace, seed: int, size: tuple[int, int], crop: int | None) -> DeSTSeg:
    """Make a model for pictures of a size."""
    return DeSTSeg(
        student_steps=arguments.steps[0],
        segmentation_steps=arguments.steps[1],
        backbone=arguments.backbone,
        backbone_weights=arguments.weights,
        textures=arguments.textures,
        image_size=size,
        crop_size=crop,
        seed=seed,
    )


def sides(arguments: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to judge a large picture."""
    size, autocast = tuple(arguments.size), Fabric(accelerator="cpu", precision=arguments.precision).autocast

    def maps_of(model: DeSTSeg) -> Callable[[torch.Tensor], torch.Tensor]:
        network = model.model.cpu().eval()

        def predict(images: torch.Tensor) -> torch.Tensor:
            with autocast():
                return network(images).anomaly_map

        return predict

    for name, seen, crop in (
        ("reduced to 256 x 256", SMALL, None),
        (f"crops of {arguments.crop}", size, arguments.crop),
    ):
        model = destseg(arguments, seed, seen, crop)
        data, minutes, grown = train(arguments, model, seed)
        known = {"machine": machine(), "minutes": round(minutes, 1), "MiB": round(grown)}
        for tile in (None,) if crop is None else (None, arguments.tile):
            model.model.tiling = None if tile is None else square(tile)
            judged = "" if crop is None else ", one pass" if tile is None else f", tiles of {tile}"
            yield {"side": name + judged, **known, **measure(maps_of(model), data, size, seen)}
    if arguments.patchcore:
        transform = Compose([RoundedBilinearResize(SMALL), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
        with pretrained_from(None if arguments.weights is None else str(arguments.weights)):
            rival = Patchcore(
                "resnet18", ["layer2", "layer3"], coreset_sampling_ratio=0.01, pre_processor=PreProcessor(transform)
            )
        data, minutes, grown = train(arguments, rival, seed)
        network, normalize = rival.model.cpu().eval(), transform.transforms[1]
        known = {"machine": machine(), "minutes": round(minutes, 1), "MiB": round(grown)}
        found = measure(lambda images: network(normalize(images)).anomaly_map, data, size, SMALL)
        yield {"side": "Patchcore, reduced to 256 x 256", **known, **found}


def main() -> None:
    """Train what the file lacks, and print the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="configuration of anomalib data; the large demo by default")
    parser.add_argument(
        "--size", nargs=2, type=int, default=[1024, 1024], help="height and width of pictures and truth"
    )
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", nargs=2, type=int, default=[200, 400], help="of student and segmentation network")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--backbone", default="resnet18.tv_in1k")
    parser.add_argument("--weights", type=Path, help="file of teacher weights")
    parser.add_argument("--textures", help="folder of pictures for anomalies")
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on hardware without bfloat16")
    parser.add_argument("--patchcore", action="store_true", help="measure Patchcore with the same weights as well")
    parser.add_argument("--out", type=Path, default=Path("large_images.csv"))
    arguments = parser.parse_args()
    name = "demo" if arguments.data is None else yaml.safe_load(arguments.data.read_text())["init_args"].get("name", "")
    run = {"set": name, "size": "x".join(map(str, arguments.size)), "steps": "+".join(map(str, arguments.steps))}
    rows = collect(arguments.out, run, arguments.seeds, lambda seed: sides(arguments, seed))
    groups = rows.groupby([*run, "side"], sort=False)
    columns = [*FIGURES, "minutes", "MiB", "s a picture"]
    cells = groups[columns].mean().map("{:.3f}".format) + " ± " + groups[columns].std(ddof=0).map("{:.3f}".format)
    show(cells.join(groups.agg(seeds=("seed", "nunique"))).reset_index())


if __name__ == "__main__":
    main()
