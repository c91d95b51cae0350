# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Train DeSTSeg and PFADSeg on the same images, and draw what each of them marks, side by side.

python examples/compare_models.py [FOLDER] [--steps 200 400] [--size 128] [--out compare.png]

The folder has train/good, test/good, test/DEFECT and ground_truth/DEFECT; without one, the demo set is made.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from anomalib.data import AnomalibDataModule, Folder, ImageBatch
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.data import DemoSurfaces

BATCH = 8


def make_data(folder: Path | None) -> AnomalibDataModule:
    """Take the user's folder, or the demo set."""
    batches = {"train_batch_size": BATCH, "eval_batch_size": BATCH, "num_workers": 0}
    if folder is None:
        return DemoSurfaces(**batches)
    defects = sorted(path.name for path in (folder / "ground_truth").iterdir() if path.is_dir())
    return Folder(
        folder.name,
        root=folder,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{defect}" for defect in defects],
        mask_dir=[f"ground_truth/{defect}" for defect in defects],
        val_split_mode="same_as_test",
        **batches,
    )


def spread_of_defects(datamodule: AnomalibDataModule, count: int) -> ImageBatch:
    """Pick defective test images at even distances, so that every kind of defect has its chance."""
    defective = [index for index, label in enumerate(datamodule.test_data.samples.label_index) if label]
    chosen = [defective[i * len(defective) // count] for i in range(min(count, len(defective)))]
    return datamodule.test_data.collate_fn([datamodule.test_data[index] for index in chosen])


def draw(batch: ImageBatch, maps: dict[str, torch.Tensor], out: Path) -> None:
    """Draw image, ground truth and one map per model in a row for every image; 0.5 is each model's threshold."""
    titles = ["image", "ground truth", *maps]
    figure, axes = plt.subplots(
        len(batch.image),
        len(titles),
        squeeze=False,
        figsize=(2.6 * len(titles), 2.6 * len(batch.image)),
        layout="constrained",
    )
    for row, image, mask, *shown in zip(axes, batch.image, batch.gt_mask, *maps.values(), strict=True):
        row[0].imshow(image.permute(1, 2, 0))
        row[1].imshow(mask, cmap="gray", vmin=0, vmax=1)
        for axis, anomaly_map in zip(row[2:], shown, strict=True):
            colours = axis.imshow(anomaly_map.squeeze(), cmap="inferno", vmin=0, vmax=1)
            axis.contour(mask, levels=[0.5], colors="cyan", linewidths=1)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(colours, ax=axes, shrink=0.5, label="anomaly map, 0.5 = threshold")
    figure.savefig(out, dpi=90)


def main() -> None:
    """Train both models with the same seed, data and steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="your images; default: the demo set")
    parser.add_argument("--steps", nargs=2, type=int, default=(200, 400), help="of student and segmentation network")
    parser.add_argument("--size", type=int, default=128, help="pixels that images are resized to")
    parser.add_argument("--images", type=int, default=4, help="rows of the picture")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="teacher; this one comes with 'offline'")
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on hardware without bfloat16")
    parser.add_argument("--out", type=Path, default=Path("compare.png"))
    arguments = parser.parse_args()

    maps, batch = {}, None
    for model_class in (DeSTSeg, PFADSeg):
        seed_everything(0)
        datamodule = make_data(arguments.folder)
        model = model_class(
            backbone=arguments.backbone,
            image_size=(arguments.size, arguments.size),
            student_steps=arguments.steps[0],
            segmentation_steps=arguments.steps[1],
        )
        engine = Engine(default_root_dir="results/compare", precision=arguments.precision, logger=False)
        engine.fit(model, datamodule=datamodule)
        figures = engine.test(model, datamodule=datamodule)[0]
        batch = spread_of_defects(datamodule, arguments.images)
        with torch.no_grad():
            prediction = model.cpu().eval()(batch.image)
        title = f"{model_class.__name__}\nAP {figures['pixel_AP']:.3f}, IAP {figures['IAP']:.3f}"
        maps[title] = prediction.anomaly_map
    draw(batch, maps, arguments.out)
    print(f"{'; '.join(title.replace(chr(10), ': ') for title in maps)}; picture in {arguments.out}")


if __name__ == "__main__":
    main()
