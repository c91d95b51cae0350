# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What an evaluation remembers of each test image, and what follows from it."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from anomalib.data import Batch
from anomalib.data.utils import read_mask
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torchmetrics.utilities import rank_zero_warn

from destseg_anomalib.metrics.curves import auroc
from destseg_anomalib.metrics.levels import ExactPixels
from destseg_anomalib.metrics.lost_regions import count_lost_regions
from destseg_anomalib.metrics.negatives import ExactNegatives
from destseg_anomalib.metrics.ordering import to_ordered
from destseg_anomalib.metrics.picture_pixels import picture_size

Record = TypeVar("Record")


class ImageRecord(NamedTuple):
    """A test image.

    Attributes:
        path: Where the image was read, or its number in the test.
        score: Raw image score, NaN if the model gave none.
        label: Whether the image is labelled anomalous, ``None`` if that is not known.
        regions: Regions of its mask as the metrics see it, ``None`` if it has no mask.
        lost: Regions of its mask file that the resize of the mask lost.
        original: Regions of its mask file; 0 if no file was read.
        size: Height and width of a picture with regions, ``None`` where its map shows a part of it, or there is no
            file.
        map_size: Those of its map and mask.
    """

    path: str
    score: float
    label: bool | None
    regions: int | None = None
    lost: int = 0
    original: int = 0
    size: tuple[int, int] | None = None
    map_size: tuple[int, int] = (0, 0)

    def with_mask(
        self,
        mask: NDArray[np.bool_],
        mask_path: str | None,
        regions: int,
        inside: NDArray[np.bool_] | None = None,
        pre_processor: Any = None,  # noqa: ANN401
    ) -> "ImageRecord":
        """Add what the mask tells.

        Args:
            mask: Boolean ``(H, W)``, the whole mask after the data module's transforms.
            mask_path: The file that it came from, ``None`` or empty where the data module knows none.
            regions: Number of regions in ``mask``.
            inside: Boolean ``(H, W)``, what of the picture is looked at; ``None`` for all of it.
            pre_processor: That of the model, whose transform may cut the picture.

        Returns:
            The record of an image with a mask.
        """
        size = picture_size(self.path, pre_processor) if regions else None
        record = self._replace(regions=regions, size=size, map_size=mask.shape)
        if not (self.label or regions) or not isinstance(mask_path, str) or not Path(mask_path).is_file():
            return record
        drawn = read_mask(mask_path, as_tensor=True).bool().numpy()
        if inside is not None:
            drawn &= cv2.resize(inside.view(np.uint8), drawn.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
        lost, original = count_lost_regions(drawn, mask)
        return record._replace(lost=lost, original=original)


def image_names(batch: Batch, rank: int, before: int) -> list[str]:
    """Name the images of a batch.

    Args:
        batch: The batch.
        rank: Which process has it.
        before: How many images this process has had before.

    Returns:
        Their paths, or names of which no two are equal.
    """
    return batch.image_path or [f"{rank}-{before + index}" for index in range(batch.batch_size)]


def image_records(batch: Batch, pred_score: torch.Tensor | None, names: Sequence[str]) -> list[ImageRecord]:
    """Describe the images of a batch.

    Args:
        batch: The batch.
        pred_score: Raw scores ``(N,)``, ``None`` if the model gave none.
        names: As of `image_names`.

    Returns:
        A record for each image.
    """
    labels = [None] * len(names) if batch.gt_label is None else batch.gt_label.flatten().bool().tolist()
    scores = [math.nan] * len(names) if pred_score is None else pred_score.flatten().tolist()
    return list(map(ImageRecord, names, scores, labels))


def mask_files(trainer: Trainer) -> dict[str, str]:
    """Look up the mask file of every test image; a batch that begins with a normal image does not know them.

    Args:
        trainer: The trainer in a test.

    Returns:
        Mask file by image file, for data sets that say; empty or missing for an image without.
    """
    loaders: Any = trainer.test_dataloaders
    datasets = [loader.dataset for loader in (loaders if isinstance(loaders, list) else [loaders])]
    tables = [dataset.samples for dataset in datasets if "mask_path" in getattr(dataset, "samples", ())]
    return {
        image: mask for table in tables for image, mask in zip(table["image_path"], table["mask_path"], strict=True)
    }


def of_all_processes(trainer: Trainer, records: list[Record]) -> list[Record]:
    """Bring what all processes remember together, in the order of their ranks.

    Args:
        trainer: The trainer; each of its processes has to call this.
        records: What this one remembers; anything that pickles.

    Returns:
        The records of all of them.
    """
    if trainer.world_size == 1:
        return records
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, records)
    return [record for part in gathered for record in part]


def image_auroc(images: Sequence[ImageRecord]) -> float:
    """AUROC of the raw scores of the labelled images.

    Args:
        images: The test images.

    Returns:
        A value in [0, 1]; NaN, with a warning, if no image is normal or none is anomalous.

    Raises:
        ValueError: If the score of a labelled image is NaN.

    Example:
        >>> images = [ImageRecord("a", 0.2, label=False), ImageRecord("b", 7.0, label=True)]
        >>> image_auroc(images)
        1.0
    """
    labelled = [image for image in images if image.label is not None]
    for image in labelled:
        if math.isnan(image.score):
            msg = f"The score of image {image.path} is NaN or missing, so images cannot be ranked; check the model."
            raise ValueError(msg)
    positives = np.array([image.score for image in labelled if image.label], dtype=np.float32)
    negatives = ExactNegatives([np.array([image.score for image in labelled if not image.label], dtype=np.float32)])
    if not positives.size or not negatives.total:
        rank_zero_warn("The test set lacks normal or anomalous images, so image_AUROC is undefined (NaN).", UserWarning)
    pixels = ExactPixels(positives, np.ones(positives.size, dtype=np.int64), negatives)
    return auroc(pixels.at(to_ordered(positives)))


def ground_truth_notes(images: Sequence[ImageRecord], *, distributed: bool = False) -> Iterator[str]:
    """Say where the ground truth is not what it seems.

    Args:
        images: The test images.
        distributed: Whether several processes shared the test set.

    Yields:
        A sentence each for regions that the resize of the masks lost, for labels that contradict their masks, for
        images that lack a mask while others have one, and for images that were tested more than once.

    Example:
        >>> list(ground_truth_notes([ImageRecord("crack.png", 0.9, label=True, regions=1, lost=2, original=3)]))
        ['Resizing the ground truth lost 2 of 3 regions, in 1 of 1 images.']
    """
    lost = [image for image in images if image.lost]
    if lost:
        of = [image for image in images if image.original]
        regions = f"{sum(image.lost for image in of)} of {sum(image.original for image in of)} regions"
        yield f"Resizing the ground truth lost {regions}, in {len(lost)} of {len(of)} images."
    empty = [image.path for image in images if image.label and image.regions == 0 and not image.original]
    if empty:
        yield f"{_count(empty)} labelled anomalous but has an empty mask; the label counts: {_some(empty)}."
    marked = [image.path for image in images if image.label is False and image.regions]
    if marked:
        yield f"{_count(marked)} labelled normal but has defects in its mask; the label counts: {_some(marked)}."
    bare = [image.path for image in images if image.regions is None]
    if 0 < len(bare) < len(images):
        yield f"{_count(bare)} without a mask and is left out of all pixel figures: {_some(bare)}."
    repeated = len(images) - len({image.path for image in images})
    if distributed and repeated:
        yield (
            f"{repeated} of {len(images)} images are repetitions that the sampler adds to give every process as many; "
            "they count twice in all figures. Test on one device for figures to report."
        )


def _count(paths: Sequence[str]) -> str:
    return f"{len(paths)} image is" if len(paths) == 1 else f"Each of {len(paths)} images is"


def _some(paths: Sequence[str]) -> str:
    return ", ".join([*paths[:5], *(["..."] if len(paths) > 5 else [])])
