# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The training set of a two-step model: decoded once, and served in epochs of exactly the steps wanted."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from anomalib.data.datasets.base.image import AnomalibDataset
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.tv_tensors import Mask

from destseg_anomalib.data.reading import CheckedReading

logger = logging.getLogger(__name__)

CACHE_SHARE = 0.25  # of the memory that is free when training starts


def mixed_seed(*parts: int) -> int:
    """Make a seed of several numbers, such that sets of numbers that differ at all give unrelated seeds.

    Args:
        *parts: Numbers from 0.

    Returns:
        Seed in [0, 2**63) for a `torch.Generator`.

    Example:
        >>> mixed_seed(0, 1) == mixed_seed(0, 1), mixed_seed(0, 1) == mixed_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) % 2**63


class TrainingImages(Dataset[torch.Tensor]):
    """Images of an anomalib data set as uint8 tensors (3, H, W), at the model's size.

    An item is asked for by its index and the seed for its augmentations, which must draw from torch's generator: so
    they are the same with any number of workers, and in a training that was resumed. With an index alone, as Lightning
    asks to overfit a few batches, an image is augmented in the same way each time.

    Args:
        dataset: The training set, with the model's resize among its augmentations.
        cache: Whether each image is kept once it has been read.
    """

    def __init__(self, dataset: AnomalibDataset, *, cache: bool) -> None:
        self.dataset = dataset
        self.cache = cache
        self._read = CheckedReading(dataset)
        self._kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, wanted: tuple[int, int] | int) -> torch.Tensor:
        index, seed = wanted if isinstance(wanted, tuple) else (wanted, mixed_seed(wanted))
        if index in self._kept:
            return self._kept[index]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            [item] = self._read([index])
        # The grey levels of a file, not the fractions that resizing leaves, nor what an interpolation adds beyond black
        # and white: cached or not, training sees the same.
        image = (item.image * 255).round().clamp(0, 255).to(torch.uint8)
        if self.cache:
            self._kept[index] = image
        return image


class StepSampler(DistributedSampler[Any]):
    """Indices and seeds for a given number of batches, shuffled anew each pass through the images.

    The remainder that does not fill a batch is dropped at the end of each pass, so that no batch is short and none
    holds an image twice (official code: `drop_last`). Only where there are fewer images than a batch takes do they
    recur in it, as evenly as they can. Every device takes its share of each batch.

    Args:
        dataset: The images.
        batch_size: Images of one batch on one device.
        batches: How many batches each device is to have.
        num_replicas: How many devices.
        rank: Which of them this one is.
        seed: Seed of the order, the same on all devices.
        start: Batches that have been served before, in the training that is resumed. They count in the length.
    """

    def __init__(
        self,
        dataset: TrainingImages,
        batch_size: int,
        batches: int,
        num_replicas: int,
        rank: int,
        seed: int,
        start: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.images = len(dataset)
        self.batch_size = batch_size
        self.batches = batches
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for position, index in enumerate(islice(self._order(), len(self))):
            if position >= self.start * self.batch_size:
                yield index, mixed_seed(self.seed, self.rank, position)

    def _order(self) -> Iterator[int]:
        together = self.batch_size * self.num_replicas
        order = torch.Generator().manual_seed(self.seed)
        passes, batches = -(-together // self.images), max(self.images // together, 1)
        while True:
            shuffled = torch.cat([torch.randperm(self.images, generator=order) for _ in range(passes)])
            yield from shuffled[self.rank : batches * together : self.num_replicas].tolist()

    def __len__(self) -> int:
        return self.batches * self.batch_size


def training_images(datamodule: AnomalibDataModule, *, devices: int, cache: bool) -> TrainingImages:
    """Take the training images of a data module that has been set up.

    Args:
        datamodule: The data module.
        devices: How many devices train together.
        cache: Whether to keep decoded images in memory. They are read again each time where random augmentations
            change them, or where they would take more than a quarter of the free memory.

    Returns:
        The images.

    Raises:
        ValueError: If a batch has one image.
    """
    dataset, batch_size = datamodule.train_data, datamodule.train_batch_size
    if batch_size < 2:
        msg = "train_batch_size=1 cannot train batch norms over pooled features: use 2 or more, at best 32."
        raise ValueError(msg)
    if len(dataset) < batch_size * devices:
        logger.warning(
            "The training set has %d images, fewer than the %d of one batch: they recur within it, each with another "
            "synthetic anomaly; lower train_batch_size to avoid that, or add images.",
            len(dataset),
            batch_size * devices,
        )
    images = TrainingImages(dataset, cache=False)
    if not cache:
        return images
    if datamodule.train_augmentations is not None:
        logger.info("Training images are read from disk at every step, since augmentations change them.")
        return images
    needed, free = len(dataset) * images[0, 0].numel(), psutil.virtual_memory().available
    if needed > CACHE_SHARE * free:
        logger.info(
            "Training images are read from disk at every step: their %d MiB exceed a quarter of the %d MiB free.",
            needed // 2**20,
            free // 2**20,
        )
        return images
    images.cache = True
    return images


class StepLoader(DataLoader[torch.Tensor]):
    """A loader whose sampler knows where to start.

    Lightning asks for these two methods before it believes that an epoch can be resumed in its middle.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: where to start follows from the number of steps."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""


def training_loader(
    images: TrainingImages,
    sampler: StepSampler,
    num_workers: int,
    collate: Callable[[list[ImageItem]], ImageBatch] | None = None,
) -> StepLoader:
    """Serve images in batches.

    Args:
        images: The images.
        sampler: Which of them make up the batches of this device.
        num_workers: Processes that read images, where these are not kept in memory.
        collate: The data module's `external_collate_fn`, such as the one that cuts a tile for a tiled ensemble.

    Returns:
        Loader of `ImageBatch` with `image` (N, 3, H, W), float32, in [0, 1].
    """
    return StepLoader(
        images,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=0 if images.cache else num_workers,  # a cache in a worker would be one cache a worker
        drop_last=len(images) >= sampler.batch_size,  # where Lightning puts another sampler, to overfit
        collate_fn=Collate(collate),
    )


class Collate:
    """Makes a batch of uint8 images, by way of a data module's own collate function where it has one.

    Args:
        external: That function; None for a stack of the images.
    """

    def __init__(self, external: Callable[[list[ImageItem]], ImageBatch] | None) -> None:
        self.external = external

    def __call__(self, images: Sequence[torch.Tensor]) -> ImageBatch:
        """Turn images (3, H, W), uint8, into a batch of float32 ones in [0, 1]."""
        if self.external is None:
            return ImageBatch(image=torch.stack(list(images)).float() / 255)
        # Whoever cuts images cuts their masks too; those of normal images are empty.
        masks = (Mask(torch.zeros(image.shape[-2:], dtype=torch.bool)) for image in images)
        items = [ImageItem(image=image.float() / 255, gt_mask=mask) for image, mask in zip(images, masks, strict=True)]
        return self.external(items)
