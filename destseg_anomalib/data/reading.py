# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Reading of images and masks that ends in an item, or in one sentence that names the file at fault.

anomalib leaves it to Pillow to complain, whose messages often name no file, and reads some files wrongly without a
word. PyTorch's loaders ask a data set for `__getitems__` before they fall back on its items one by one; there the
readings of any data set can be checked, in the workers too, without a change to its class. What an image and a mask
must be is said in `images.py` and `masks.py`, and which mask belongs to which image in `pairing.py`.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule, PredictDataset
from anomalib.data.datasets.base.image import AnomalibDataset
from anomalib.data.utils import LabelName, read_image, read_mask
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Subset

from destseg_anomalib.data.images import UnusableImageError, check_image
from destseg_anomalib.data.masks import check_mask, check_mask_of_normal
from destseg_anomalib.data.pairing import check_folder, check_tables

__all__ = [
    "CheckedReading",
    "DataCheck",
    "UnusableImageError",
    "check_data",
    "check_folder",
    "data_of",
    "release_data",
    "workers_of",
]

logger = logging.getLogger(__name__)

OVERSHOOT = 0.5  # beyond [0, 1]: more than a bicubic resize makes of a sharp edge, less than any normalisation does


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
            UnusableImageError: If an image or a mask cannot be read, or anomalib would read something else than is
                meant by it.
        """
        return [self._read(int(index)) for index in indices]

    def look_at_masks(self, already: set[str]) -> None:
        """Check the masks of defective images, without reading the images.

        Args:
            already: Images whose masks have been looked at; those of this data set are added.

        Raises:
            UnusableImageError: If a mask, or an image that has one, cannot be used.
        """
        samples = self.dataset.samples
        for index in (samples.label_index == LabelName.ABNORMAL).to_numpy().nonzero()[0]:
            image, masks, _ = _files(self.dataset, index)
            if masks and image not in already:
                self._read(index, header_only=True)
                already.add(image)

    def _read(self, index: int, *, header_only: bool = False) -> Any:  # noqa: ANN401  each data set has its own kind
        image, masks, normal = _files(self.dataset, index)
        try:
            size = check_image(image)
            for mask in masks:
                if normal:
                    check_mask_of_normal(mask, image)
                else:
                    check_mask(mask, image, size)
            return None if header_only else _in_range(self.dataset[index])
        except UnusableImageError:
            raise
        except Exception as error:  # Pillow alone raises six kinds; what is not a file's fault is passed on
            for path in (image, *masks):
                kind, read = ("image", read_image) if path == image else ("mask", read_mask)
                try:
                    read(path)
                except Exception as fault:
                    reason = getattr(fault, "strerror", None) or fault
                    msg = f"The {kind} {path} cannot be read ({reason}): repair it or take it out of the folder."
                    raise UnusableImageError(msg) from error
            raise


def _in_range(item: Any) -> Any:  # noqa: ANN401
    """Refuse an image that augmentations have taken out of [0, 1], where our models expect it."""
    low, high = (bound.item() for bound in item.image.aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        msg = (
            f"The image {item.image_path} has values from {low:.2f} to {high:.2f} after its augmentations where [0, 1] "
            "is expected: leave normalisation out of them, since the model does it."
        )
        raise UnusableImageError(msg)
    return item


def workers_of(datamodule: AnomalibDataModule) -> int:
    """Count the loader workers that a data module asks for, as far as there are cores.

    A configuration was often written on another machine, and PyTorch warns of workers that share a core.

    Args:
        datamodule: Any data module of anomalib.

    Returns:
        Number of processes that read images beside this one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(datamodule.num_workers, cores)


def data_of(trainer: Trainer) -> AnomalibDataModule | None:
    """Find the data module that a stage reads, which `trainer.datamodule` need not be.

    Lightning leaves that of an earlier stage there when loaders are given by hand.

    Args:
        trainer: The trainer in a stage.

    Returns:
        anomalib's data module, or None.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    loops: dict[Any, Any] = {
        TrainerFn.FITTING: trainer.fit_loop.epoch_loop.val_loop,
        TrainerFn.VALIDATING: trainer.validate_loop,
        TrainerFn.TESTING: trainer.test_loop,
        TrainerFn.PREDICTING: trainer.predict_loop,
    }
    read = trainer.state.fn in loops and loops[trainer.state.fn]._data_source.instance is datamodule
    return datamodule if read and isinstance(datamodule, AnomalibDataModule) else None


def check_data(trainer: Trainer, stage: str) -> None:
    """Look at the data that a trainer is about to read, and let its readings be checked.

    Args:
        trainer: A trainer whose data module, if it has one, has been set up.
        stage: `fit`, `validate`, `test` or `predict`.

    Raises:
        ValueError: If a training has no validation set or has masks that cannot be used, or an image has no mask, or
            that of another image.
    """
    datamodule = data_of(trainer)
    if datamodule is not None:
        if stage == "fit" and not hasattr(datamodule, "val_data"):
            msg = (
                f"The data module {datamodule.name} has no validation set, from which thresholds are learned: pass "
                "val_split_mode=same_as_test, or synthetic where there are no defective images."
            )
            raise ValueError(msg)
        if stage == "test" and not len(datamodule.test_data):
            logger.warning("The test set of %s has no image, and nothing is measured.", datamodule.name)
        _warn_of_overlap(datamodule)
    datasets = [dataset for dataset in _datasets(trainer) if isinstance(dataset, AnomalibDataset | PredictDataset)]
    tables = [dataset for dataset in datasets if isinstance(dataset, AnomalibDataset)]
    check_tables(tables)
    for dataset in datasets:
        if not hasattr(dataset, "__getitems__"):
            dataset.__getitems__ = CheckedReading(dataset)
    looked_at: set[str] = set()
    for dataset in tables if stage == "fit" else ():
        CheckedReading(dataset).look_at_masks(looked_at)  # rather than in a validation at the end of the training


class DataCheck(Callback):
    """Has the data of each stage checked, for any model of anomalib, and leaves data sets as they were found."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the data, which has been set up."""
        del pl_module
        check_data(trainer, stage)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the data."""
        del pl_module, stage
        release_data(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the data, which nothing else will do."""
        del pl_module, exception
        release_data(trainer)


def _warn_of_overlap(datamodule: AnomalibDataModule) -> None:
    tables = [getattr(datamodule, name).samples for name in ("train_data", "test_data") if hasattr(datamodule, name)]
    shared = set.intersection(*(set(table.image_path) for table in tables)) if len(tables) == 2 else set()
    if shared:
        logger.warning(
            "Of the %d test images %d are trained on, such as %s, and figures are better than they should be: keep the "
            "folders of both sets apart.",
            len(tables[1]),
            len(shared),
            min(shared),
        )


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
                dataset = loader.dataset
                while isinstance(dataset, Subset):
                    dataset = dataset.dataset
                yield dataset


def _files(dataset: AnomalibDataset | PredictDataset, index: int) -> tuple[str, list[str], bool]:
    """Paths of an image and of its masks, and whether it is listed as normal."""
    if isinstance(dataset, PredictDataset):
        return str(dataset.image_filenames[index]), [], False
    sample = dataset.samples.iloc[index]
    if isinstance(dataset, SyntheticAnomalyDataset):  # whose masks are noise, and anomalib's own
        return sample.image_path, [], False
    masks = sample.get("mask_path")
    masks = masks if isinstance(masks, list) else [masks]  # MVTec LOCO AD has one for each defect
    existing = [mask for mask in masks if isinstance(mask, str) and mask]
    return sample.image_path, existing, sample.label_index == LabelName.NORMAL
