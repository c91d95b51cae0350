# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a validation shows of defects and of good parts, image by image, on one device or several."""

from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import Batch, InferenceBatch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from destseg_anomalib.deployment.part_score import part_scores
from destseg_anomalib.metrics.images import image_names, of_all_processes
from destseg_anomalib.metrics.instances import find_regions, to_arrays


class ImageScores(NamedTuple):
    """What one validation image says.

    Attributes:
        lowest: Lowest value of its raw map.
        highest: Highest value.
        good: Score of the part, ``None`` if it is not labelled good.
        defects: Float32 ``(R,)``, the scores of the regions of its mask.
    """

    lowest: float
    highest: float
    good: float | None
    defects: NDArray[np.float32]


class Calibration:
    """Collects the scores of a validation.

    An image counts once, also where a sampler gives it to several devices to make their shares equal.
    """

    def __init__(self) -> None:
        self.images: dict[str, ImageScores] = {}

    def note(self, batch: Batch, min_area: int, rank: int = 0) -> None:
        """Add a batch.

        Args:
            batch: With raw ``anomaly_map`` ``(N, 1, H, W)`` or ``(N, H, W)``, ``gt_label`` ``(N,)``, and ``gt_mask``
                where the data has masks.
            min_area: Pixels of the map that a defect has at least.
            rank: The device, for images without a path.

        Raises:
            ValueError: If there is no map, or it holds NaN.
        """
        raw = raw_maps(batch)
        names = image_names(batch, rank, len(self.images))
        without = torch.zeros(raw.shape, dtype=torch.bool)
        maps, masks = to_arrays(raw, without if batch.gt_mask is None else batch.gt_mask, names)
        scores = part_scores(torch.from_numpy(maps), min_area).tolist()
        labels = [True] * len(names) if batch.gt_label is None else batch.gt_label.flatten().bool().tolist()
        for name, one, mask, score, bad in zip(names, maps, masks, scores, labels, strict=True):
            _, defects = find_regions(one, mask)
            self.images[name] = ImageScores(float(one.min()), float(one.max()), None if bad else score, defects.scores)

    def gather(self, trainer: Trainer) -> "Calibration":
        """Bring the images of all processes together.

        Args:
            trainer: The trainer; each of its processes has to call this.

        Returns:
            The calibration of all of them.
        """
        whole = Calibration()
        whole.images = dict(of_all_processes(trainer, list(self.images.items())))
        return whole

    @property
    def defects(self) -> torch.Tensor:
        """Float32 ``(R,)``, ascending, the scores of all defects."""
        scores = [np.empty(0, np.float32), *(image.defects for image in self.images.values())]
        return torch.from_numpy(np.sort(np.concatenate(scores)))

    @property
    def good_parts(self) -> torch.Tensor:
        """Float32 ``(n,)``, ascending, the scores of all good parts."""
        return torch.tensor(sorted(image.good for image in self.images.values() if image.good is not None))

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest value of all maps, of which there is at least one."""
        return min(image.lowest for image in self.images.values()), max(i.highest for i in self.images.values())


def raw_maps(batch: Batch | InferenceBatch) -> torch.Tensor:
    """Maps of a batch in float32.

    Args:
        batch: Batch or predictions before any post-processor.

    Returns:
        Float32, of the shape that they have.

    Raises:
        ValueError: If there is none.
    """
    if batch.anomaly_map is None:
        msg = "The model makes no anomaly maps, by which OperatingPoint judges: use anomalib's PostProcessor for it."
        raise ValueError(msg)
    return batch.anomaly_map.float()
