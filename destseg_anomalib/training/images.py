# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The training set of a two-step model: decoded once, and cut where crops are asked for."""

import logging
import shutil
from typing import NamedTuple

import platformdirs
import psutil
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.base.image import AnomalibDataset
from torch.utils.data import Dataset

from destseg_anomalib.data.reading import CheckedReading
from destseg_anomalib.training.image_file import ImageFile
from destseg_anomalib.training.seeds import mixed_seed

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
CACHE_SHARE = 0.25  # of the memory that is free when training starts
DISK_SHARE = 0.5  # of the room on the disk of the cache folder


class Crop(NamedTuple):
    """A square part of an image, and what a rotation needs around it.

    Attributes:
        size: Side in pixels.
        margin: Pixels on each side of it that are served as well, where the image has them.
    """

    size: int
    margin: int

    def cut(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        """Cut a part at random.

        Args:
            image: (3, H, W).
            seed: Of its place, uniform among all places.

        Returns:
            A view (3, h, w), h and w being `size` and both margins, or as much of that as the image has.

        Raises:
            ValueError: If the image is smaller than `size`.
        """
        sides = image.shape[-2:]
        if min(sides) < self.size:
            msg = (
                f"A training image has {sides[0]} x {sides[1]} pixels after the resize, less than "
                f"crop_size={self.size}: choose a smaller crop_size, or a larger image_size."
            )
            raise ValueError(msg)
        generator = torch.Generator().manual_seed(seed)
        served = [min(self.size + 2 * self.margin, side) for side in sides]
        top, left = (
            int(torch.randint(side - part + 1, (), generator=generator))
            for side, part in zip(sides, served, strict=True)
        )
        return image[:, top : top + served[0], left : left + served[1]]


class TrainingImages(Dataset[torch.Tensor]):
    """Images of an anomalib data set as uint8 tensors (3, H, W), at the model's size, or crops of them.

    An item is asked for by its index and the seed for its crop and its augmentations, which must draw from torch's
    generator: so they are the same with any number of workers, and in a training that was resumed. With an index alone,
    as Lightning asks to overfit a few batches, an image is cut and augmented in the same way each time.

    Args:
        dataset: The training set, with the model's resize among its augmentations.
        crop: Which part of each image is served; None for all of it.

    Attributes:
        kept: Where each image is kept once it has been read; None to read it each time.
        device: Where images are, once they have been read.
    """

    def __init__(self, dataset: AnomalibDataset, crop: Crop | None = None) -> None:
        self.dataset = dataset
        self.crop = crop
        self.kept: dict[int, torch.Tensor] | ImageFile | None = None
        self.device = CPU
        self._read = CheckedReading(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, wanted: tuple[int, int] | int) -> torch.Tensor:
        index, seed = wanted if isinstance(wanted, tuple) else (wanted, mixed_seed(wanted))
        image = self.whole(index, seed)
        return image if self.crop is None else self.crop.cut(image, mixed_seed(seed, 1))

    def whole(self, index: int, seed: int) -> torch.Tensor:
        """Read an image, before any crop.

        Args:
            index: Which one.
            seed: For its augmentations.

        Returns:
            Uint8 (3, H, W), on `device`.
        """
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            [item] = self._read([index])
        # The grey levels of a file, not the fractions that resizing leaves, nor what an interpolation adds beyond black
        # and white: cached or not, training sees the same.
        image = (item.image * 255).round().clamp(0, 255).to(torch.uint8).to(self.device)
        if self.kept is not None:
            try:
                self.kept[index] = image
            except OSError as error:  # a full disk
                logger.warning("Training images are read anew at every step from here on, since %s.", error)
                self.kept = None
        return image


def training_images(
    datamodule: AnomalibDataModule, devices: int, *, cache: bool, crop: Crop | None = None, device: torch.device = CPU
) -> TrainingImages:
    """Take the training images of a data module that has been set up.

    Args:
        datamodule: The data module.
        devices: How many devices train together.
        cache: Whether to keep decoded images: on the device that trains, else in memory, else in a file; in each, no
            more than a quarter of what is free. They are read again each time where random augmentations change them.
        crop: Which part of each image is served; None for all of it.
        device: The one of this process.

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
    images = TrainingImages(dataset, crop)
    if not cache:
        return images
    if datamodule.train_augmentations is not None:
        logger.info("Training images are read from disk at every step, since augmentations change them.")
        return images
    shape = images.whole(0, 0).shape
    needed = len(dataset) * shape.numel()
    # A collate function of the user's need not know devices.
    places = [CPU] if datamodule.external_collate_fn is not None else [device, CPU]
    place = next((place for place in places if fits(needed, place)), None)
    if place is None:
        images.kept = _in_a_file(len(dataset), shape)
    else:
        images.kept, images.device = {}, place
    return images


def fits(needed: int, device: torch.device) -> bool:
    """Say whether something takes no more than a quarter of the free memory of a device.

    Args:
        needed: Its bytes.
        device: A device that says what is free, or nothing fits.

    Example:
        >>> fits(1, torch.device("cpu")), fits(2**60, torch.device("cpu"))
        (True, False)
    """
    if device == CPU:
        free = psutil.virtual_memory().available
    else:
        ask = getattr(torch.get_device_module(device), "mem_get_info", lambda _: (0, 0))
        free, _ = ask(device)
    return needed <= CACHE_SHARE * free


def _in_a_file(count: int, shape: torch.Size) -> ImageFile | None:
    """Make room for images on the disk, if there is any."""
    folder = platformdirs.user_cache_path("destseg_anomalib", appauthor=False) / "training_images"
    needed, free = count * shape.numel(), psutil.virtual_memory().available
    why = f"their {needed >> 20} MiB exceed a quarter of the {free >> 20} MiB of memory that are free"
    try:
        file = ImageFile(count, shape, folder)
        room = shutil.disk_usage(folder).free
    except OSError as error:
        logger.info("Training images are read anew at every step: %s, and %s.", why, error)
        return None
    if needed > DISK_SHARE * room:
        logger.info("Training images are read anew at every step: %s, as of %s.", why, folder)
        return None
    logger.info("Decoded training images are kept in a file in %s for this training, since %s.", folder, why)
    return file
