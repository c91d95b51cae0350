# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Reading of images and masks that ends in an item, or in one sentence that names the file at fault.

anomalib leaves it to Pillow to complain, whose messages often name no file, and reads some files wrongly without a
word. PyTorch's loaders ask a data set for `__getitems__` before they fall back on its items one by one; there the
readings of any data set can be checked, in the workers too, without a change to its class.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, PredictDataset
from anomalib.data.datasets.base.image import AnomalibDataset
from anomalib.data.utils import read_image, read_mask
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

# Modes in which Pillow keeps grey values beyond 8 bits; its conversion to RGB, which anomalib uses, clips them at 255.
DEEP_MODES = ("I", "F")


class UnusableImageError(ValueError):
    r"""An image or a mask cannot be used; the message is one sentence that names the file.

    Args:
        message: The sentence, or the printed traceback that a loader's worker hands over, which ends in it.

    Example:
        >>> str(UnusableImageError("Caught it in worker 0.\n...\nUnusableImageError: a.png is empty.\n"))
        'a.png is empty.'
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class CheckedReading:
    """What a loader calls in place of a data set's own reading.

    Args:
        dataset: A data set of anomalib's that knows the paths of its images.
    """

    def __init__(self, dataset: AnomalibDataset | PredictDataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        """Read items.

        Args:
            indices: Which ones.

        Returns:
            The items, as the data set makes them.

        Raises:
            UnusableImageError: If an image or a mask cannot be read, an image has more than 8 bits of grey, or a mask
                is not of the size of its image.
        """
        return [self._read(int(index)) for index in indices]

    def _read(self, index: int) -> Any:  # noqa: ANN401  each data set has its own kind of item
        image, mask = _files(self.dataset, index)
        try:
            _check_headers(image, mask)
            return self.dataset[index]
        except UnusableImageError:
            raise
        except Exception as error:  # Pillow alone raises six kinds; what is not a file's fault is passed on
            for kind, path, read in (("image", image, read_image), ("mask", mask, read_mask)):
                try:
                    if path:
                        read(path)
                except Exception as fault:
                    reason = getattr(fault, "strerror", None) or fault
                    msg = f"The {kind} {path} cannot be read ({reason}): repair it or take it out of the folder."
                    raise UnusableImageError(msg) from error
            raise


def check_data(trainer: Trainer, stage: str) -> None:
    """Look at the data that a trainer is about to read, and let its readings be checked.

    Args:
        trainer: A trainer whose data module, if it has one, has been set up.
        stage: `fit`, `validate`, `test` or `predict`.

    Raises:
        ValueError: If a training has no validation set.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(datamodule, AnomalibDataModule):
        if stage == "fit" and not hasattr(datamodule, "val_data"):
            msg = (
                f"The data module {datamodule.name} has no validation set, from which thresholds are learned: pass "
                "val_split_mode=same_as_test, or synthetic where there are no defective images."
            )
            raise ValueError(msg)
        if stage == "test" and not len(datamodule.test_data):
            logger.warning("The test set of %s has no image, and nothing is measured.", datamodule.name)
    for dataset in _datasets(trainer):
        if isinstance(dataset, AnomalibDataset | PredictDataset) and not hasattr(dataset, "__getitems__"):
            dataset.__getitems__ = CheckedReading(dataset)


def release_data(trainer: Trainer) -> None:
    """Take back what `check_data` put on data sets, which then read as they did before; a second call does nothing.

    Args:
        trainer: The trainer, after its stage or after an exception in it.
    """
    for dataset in _datasets(trainer):
        if isinstance(getattr(dataset, "__getitems__", None), CheckedReading):
            del dataset.__getitems__


def _datasets(trainer: Trainer) -> Iterator[Any]:
    """Data sets of the trainer's data module and of the loaders it was given."""
    if isinstance(datamodule := trainer.datamodule, AnomalibDataModule):  # type: ignore[attr-defined]
        yield from (getattr(datamodule, f"{name}_data", None) for name in ("train", "val", "test"))
    # Loaders that were passed by hand are in no public place before they start to read.
    loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop)
    for loop in (*loops, trainer.predict_loop):
        loaders = loop._data_source.instance
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if isinstance(loader, DataLoader):
                yield loader.dataset


def _files(dataset: AnomalibDataset | PredictDataset, index: int) -> tuple[str, str | None]:
    """Paths of an image and of its mask, if it has one to read."""
    if isinstance(dataset, PredictDataset):
        return str(dataset.image_filenames[index]), None
    sample = dataset.samples.iloc[index]
    has_mask = sample.label_index == 1 and isinstance(sample.get("mask_path"), str) and sample.mask_path
    return sample.image_path, sample.mask_path if has_mask else None


def _check_headers(image_path: str, mask_path: str | None) -> None:
    with Image.open(image_path) as image:
        size, mode = image.size, image.mode
    if mode.startswith(DEEP_MODES):
        msg = (
            f"The image {image_path} has grey values of more than 8 bits, which anomalib would clip at 255: convert it "
            "to 8 bits."
        )
        raise UnusableImageError(msg)
    if mask_path is None:
        return
    with Image.open(mask_path) as mask:
        mask_size = mask.size
    if mask_size != size:
        msg = (
            f"The mask {mask_path} has {_by(mask_size)} pixels, but its image {Path(image_path).name} has {_by(size)}: "
            "store the mask at the size of the image."
        )
        raise UnusableImageError(msg)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
