# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The training images of a two-step model, served in epochs of exactly the steps wanted."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.tv_tensors import Mask

from destseg_anomalib.training.images import CPU, TrainingImages
from destseg_anomalib.training.seeds import mixed_seed


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
    device: torch.device = CPU,
) -> StepLoader:
    """Serve images in batches.

    Args:
        images: The images.
        sampler: Which of them make up the batches of this device.
        num_workers: Processes that read images, where these are not kept in memory.
        collate: The data module's `external_collate_fn`, such as the one that cuts a tile for a tiled ensemble.
        device: Where the batches are wanted, to which they travel from memory that is made for it.

    Returns:
        Loader of what Lightning makes an `ImageBatch` of, with `image` (N, 3, H, W), float32, in [0, 1].
    """
    return StepLoader(
        images,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=num_workers if images.kept is None else 0,  # a cache in a worker would be one cache a worker
        drop_last=len(images) >= sampler.batch_size,  # where Lightning puts another sampler, to overfit
        collate_fn=Collate(collate),
        pin_memory=device.type == "cuda" and images.device != device,
    )


class PackedImages:
    """Images as uint8 on their way to a device, where they become a batch of floats.

    Args:
        images: Images (N, 3, H, W), uint8.
    """

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def pin_memory(self) -> "PackedImages":
        """Lie in memory that a device reads by itself, as loaders ask of what they do not know."""
        return PackedImages(self.images.pin_memory())

    def to(self, device: torch.device) -> ImageBatch:
        """Arrive, as Lightning asks of what can: `image` (N, 3, H, W), float32, in [0, 1], alike on every device."""
        return ImageBatch(image=as_floats(self.images.to(device, non_blocking=True)))


def as_floats(images: torch.Tensor) -> torch.Tensor:
    """Bring uint8 images to float32 in [0, 1]."""
    # Divided by a tensor: a GPU would multiply by the inverse of a number, and be off by a bit.
    return images.float() / torch.full((), 255, dtype=torch.float32, device=images.device)


class Collate:
    """Makes a batch of uint8 images, by way of a data module's own collate function where it has one.

    Args:
        external: That function; None for a stack of the images.
    """

    def __init__(self, external: Callable[[list[ImageItem]], ImageBatch] | None) -> None:
        self.external = external

    def __call__(self, images: Sequence[torch.Tensor]) -> PackedImages | ImageBatch:
        """Turn images (3, H, W), uint8, into a stack, or what the function makes of float32 ones in [0, 1]."""
        if self.external is None:
            return PackedImages(torch.stack(list(images)))
        # Whoever cuts images cuts their masks too; those of normal images are empty.
        masks = (Mask(torch.zeros(image.shape[-2:], dtype=torch.bool)) for image in images)
        items = [ImageItem(image=as_floats(image), gt_mask=mask) for image, mask in zip(images, masks, strict=True)]
        return self.external(items)
