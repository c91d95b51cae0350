# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Small defects in large pictures: reduced to 256 x 256, or trained on crops and judged whole or in tiles.

    python examples/large_images.py --size 1024 1024 --picture large_images.png
    python examples/large_images.py configs/data/folder.yaml --size 1280 512 --patchcore --out large_images.csv

Every side is measured on the same ground truth, that of the large size; maps of reduced pictures are enlarged to it.
Each model is trained for the same steps of as many images of as many pixels. Rows are added to the file as they are
measured; at the end it is printed as a table, mean and standard deviation over the seeds. The picture, of the last
training, shows windows of three defective pieces, the maps of both sides and the outlines of the truth: black is what
lies above all that a side says of good pieces.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import yaml
from anomalib.data import AnomalibDataModule, DatasetItem, get_datamodule
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, Patchcore
from anomalib.pre_processing import PreProcessor
from averaged_weights import BITS, collect, show
from benchmark_synthesis import machine
from inference_paths import megabytes
from lightning.fabric import Fabric
from lightning.pytorch import seed_everything
from torch.nn import functional
from torchvision.transforms.v2 import Compose, Normalize

from destseg_anomalib import DemoSurfaces, DeSTSeg, RoundedBilinearResize
from destseg_anomalib.benchmark.pretrained import pretrained_from
from destseg_anomalib.metrics.curves import mean_precision, precision_at
from destseg_anomalib.metrics.figures import PixelFiguresMetric
from destseg_anomalib.models.tiles import square
from destseg_anomalib.models.windows import look_no_further

SMALL = (256, 256)
FIGURES = ["pixel_AP", "pixel_AUPRO", "IAP", "IAP@90"]
OVER_ALL = "one pass, means over the whole picture"
WINDOW = 256  # pixels of a side that the picture shows


def open_data(arguments: argparse.Namespace) -> AnomalibDataModule:
    """Make the data module of a training."""
    batches = {"train_batch_size": arguments.batch, "eval_batch_size": 1, "num_workers": 0}
    if arguments.data is None:
        return DemoSurfaces(size=1024, **batches)
    config = yaml.safe_load(arguments.data.read_text(encoding="utf-8"))
    config["init_args"] |= batches
    return get_datamodule(config)


def train(arguments: argparse.Namespace, model: AnomalibModule, seed: int) -> tuple[AnomalibDataModule, dict[str, Any]]:
    """Train; return the data, and minutes and MiB of the process at its peak."""
    data, start = open_data(arguments), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is that of another training
    seed_everything(seed, verbose=False)
    with TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        precision = arguments.precision if isinstance(model, DeSTSeg) else "32-true"
        Engine(default_root_dir=folder, precision=precision, **quiet).fit(model, datamodule=data)
    minutes = round((time.monotonic() - start) / 60, 1)
    return data, {"machine": machine(), "minutes": minutes, "MiB": round(megabytes("VmHWM"))}


class Judged(NamedTuple):
    """A test picture (1, 3, H, W), its truth (1, H, W) and map (1, 1, H, W), all at the large size, and seconds."""

    image: torch.Tensor
    mask: torch.Tensor
    anomaly_map: torch.Tensor
    seconds: float


Predict = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def judged(
    predict: Predict, pictures: Iterable[DatasetItem], size: tuple[int, int], seen: tuple[int, int]
) -> Iterator[Judged]:
    """Judge pictures one by one, as a model sees them, and bring maps and truth to a size."""
    large, small = RoundedBilinearResize(size), RoundedBilinearResize(seen)
    for item in pictures:
        image, mask = large(item.image, item.gt_mask)
        given = small(item.image)[None]
        start = time.monotonic()
        found = predict(given)
        seconds = time.monotonic() - start
        anomaly_map = functional.interpolate(found.float(), size, mode="bilinear")
        yield Judged(image[None], mask[None], anomaly_map, seconds)


class Side(NamedTuple):
    """Figures of a side, some of the pictures that it judged, and the highest value of its maps of good pictures."""

    figures: dict[str, float]
    shown: list[Judged]
    highest: float


def measure(pictures: Iterable[Judged], show: Container[int] = ()) -> Side:
    """Compute figures, and seconds a picture; keep pictures by their place."""
    store, seconds, shown, highest = PixelFiguresMetric(bits=BITS), [], [], 0.0
    for place, picture in enumerate(pictures):
        store.update(picture.anomaly_map, picture.mask)
        seconds.append(picture.seconds)
        if place in show:
            shown.append(picture)
        if not picture.mask.any():
            highest = max(highest, float(picture.anomaly_map.max()))
    figures = store.compute()
    precision = figures.curve.precision
    values = (
        figures.average_precision,
        figures.per_region_overlap,
        mean_precision(precision),
        precision_at(precision, 0.9),
    )
    found = dict(zip(FIGURES, values, strict=True)) | {"s a picture": statistics.mean(seconds)}
    return Side(found, shown, highest)


def draw(path: Path, sides: dict[str, Side]) -> None:
    """Show windows of the same pictures with the maps of all sides."""
    pictures = next(iter(sides.values())).shown
    rows, columns = len(pictures), 1 + len(sides)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.6 * rows), squeeze=False, layout="tight")
    for axis, name in zip(axes[0], ("picture", *sides), strict=True):
        axis.set_title(name, fontsize=10)
    for place, (row, picture) in enumerate(zip(axes, pictures, strict=True)):
        mask = picture.mask[0]
        corner = mask.nonzero()[mask.sum() // 2] - WINDOW // 2  # around a defect
        top, left = corner.minimum(torch.tensor(mask.shape) - WINDOW).clamp(min=0).tolist()
        window = slice(top, top + WINDOW), slice(left, left + WINDOW)
        row[0].imshow(picture.image[0].permute(1, 2, 0)[window])
        for axis, side in zip(row[1:], sides.values(), strict=True):
            axis.imshow(side.shown[place].anomaly_map[0, 0][window], cmap="gray_r", vmin=0, vmax=side.highest)
            axis.contour(mask[window].float(), levels=[0.5], colors="tab:red", linewidths=0.8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=90)


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
    drawn: dict[str, Side] = {}

    def maps_of(model: DeSTSeg) -> Predict:
        network = model.model.cpu().eval()

        def predict(images: torch.Tensor) -> torch.Tensor:
            with autocast():
                return network(images).anomaly_map

        return predict

    reduced, crops = "reduced to 256 x 256", f"crops of {arguments.crop}"
    in_tiles = {f"{crops}, tiles of {tile}": tile for tile in arguments.tile}
    for name, seen, crop, ways in (
        (reduced, SMALL, None, {reduced: None}),
        (crops, size, arguments.crop, {f"{crops}, one pass": max(size), **in_tiles, f"{crops}, {OVER_ALL}": max(size)}),
    ):
        model = destseg(arguments, seed, seen, crop)
        data, known = train(arguments, model, seed)
        defective = data.test_data.samples.label_index.to_numpy().nonzero()[0]
        for way, tile in ways.items():
            model.model.tiling = None if tile is None else square(tile)
            if way.endswith(OVER_ALL):
                look_no_further(model.model, None)
            pictures = judged(maps_of(model), data.test_data, size, seen)
            side = measure(pictures, show=defective[:: -(-len(defective) // 3)])
            drawn.setdefault(name, side)
            yield {"side": way, **known, **side.figures}
    if arguments.picture is not None:
        draw(arguments.picture, drawn)
    if arguments.patchcore:
        yield patchcore(arguments, seed, size)


def patchcore(arguments: argparse.Namespace, seed: int, size: tuple[int, int]) -> dict[str, Any]:
    """Make the row of Patchcore, which sees reduced pictures."""
    transform = Compose([RoundedBilinearResize(SMALL), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    with pretrained_from(None if arguments.weights is None else str(arguments.weights)):
        rival = Patchcore(
            "resnet18", ["layer2", "layer3"], coreset_sampling_ratio=0.01, pre_processor=PreProcessor(transform)
        )
    data, known = train(arguments, rival, seed)
    network, normalize = rival.model.cpu().eval(), transform.transforms[1]
    found = judged(lambda images: network(normalize(images)).anomaly_map, data.test_data, size, SMALL)
    return {"side": "Patchcore, reduced to 256 x 256", **known, **measure(found).figures}


def name_of(data: dict[str, Any]) -> str:
    """Name a set by its category, or as its configuration does."""
    return data.get("category") or data["name"]


def main() -> None:
    """Train what the file lacks, and print the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="configuration of anomalib data; the large demo by default")
    parser.add_argument(
        "--size", nargs=2, type=int, default=[1024, 1024], help="height and width of pictures and truth"
    )
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--tile", type=int, nargs="+", default=[512])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", nargs=2, type=int, default=[200, 400], help="of student and segmentation network")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--backbone", default="resnet18.tv_in1k")
    parser.add_argument("--weights", type=Path, help="file of teacher weights")
    parser.add_argument("--textures", help="folder of pictures for anomalies")
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on hardware without bfloat16")
    parser.add_argument("--patchcore", action="store_true", help="measure Patchcore with the same weights as well")
    parser.add_argument("--picture", type=Path, help="where to draw maps of both sides")
    parser.add_argument("--out", type=Path, default=Path("large_images.csv"))
    arguments = parser.parse_args()
    name = "demo" if arguments.data is None else name_of(yaml.safe_load(arguments.data.read_text())["init_args"])
    size, steps = "x".join(map(str, arguments.size)), "+".join(map(str, arguments.steps))
    run = {"set": name, "size": size, "steps": steps, "backbone": arguments.backbone}
    rows = collect(arguments.out, run, arguments.seeds, lambda seed: sides(arguments, seed))
    groups = rows.groupby([*run, "side"], sort=False)
    columns = [*FIGURES, "minutes", "MiB", "s a picture"]
    cells = groups[columns].mean().map("{:.3f}".format) + " ± " + groups[columns].std(ddof=0).map("{:.3f}".format)
    show(cells.join(groups.agg(seeds=("seed", "nunique"))).reset_index())


if __name__ == "__main__":
    main()
