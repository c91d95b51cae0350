# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Faults of files become sentences, and other faults are passed on; the doors are in `integration/test_inputs.py`."""

import copy
import pickle
from typing import Any

import pytest
import torch
from anomalib.data import PredictDataset
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch.utils.data import DataLoader, Subset

from destseg_anomalib.data.reading import CheckedReading, UnusableImageError, check_data, release_data
from tests.conftest import make_part_data


@pytest.fixture
def test_data(part_folder):
    datamodule = make_part_data(part_folder)
    datamodule.setup()
    return datamodule.test_data


def test_checked_items_are_the_data_sets_own(test_data) -> None:
    for item, own in zip(CheckedReading(test_data)([0, 4]), [test_data[0], test_data[4]], strict=True):
        assert torch.equal(item.image, own.image)
        assert torch.equal(item.gt_mask, own.gt_mask)


def test_loaders_ask_for_checked_items_also_of_a_copy_a_subset_and_a_pickle(test_data, part_folder) -> None:
    test_data.__getitems__ = CheckedReading(test_data)
    (part_folder / "test/good/002.png").write_bytes(b"")
    copies = [test_data, copy.deepcopy(test_data), pickle.loads(pickle.dumps(test_data)), Subset(test_data, range(6))]
    for dataset in copies:
        with pytest.raises(UnusableImageError, match=r"good/002\.png cannot be read"):
            list(DataLoader(dataset, batch_size=6, collate_fn=test_data.collate_fn))


def test_a_fault_that_is_no_files_is_passed_on(test_data) -> None:
    def stumble(*_: object) -> None:
        msg = "an augmentation stumbled"
        raise RuntimeError(msg)

    test_data.augmentations = stumble
    with pytest.raises(RuntimeError, match="an augmentation stumbled"):
        CheckedReading(test_data)([0])


def test_pictures_to_predict_are_checked(part_folder) -> None:
    (part_folder / "test/good/001.png").write_bytes(b"x")
    reading = CheckedReading(PredictDataset(part_folder / "test/good"))
    assert reading([0])[0].image.shape == (3, 80, 80)
    with pytest.raises(UnusableImageError, match=r"good/001\.png cannot be read .*: repair it or take it out"):
        reading([1])


@pytest.fixture
def trainer(part_folder) -> Trainer:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    return attach(trainer, make_part_data(part_folder))


def attach(trainer: Trainer, datamodule: Any) -> Trainer:
    """Let a trainer be about to test a data module."""
    datamodule.setup()
    trainer.datamodule = trainer.test_loop._data_source.instance = datamodule
    trainer.state.fn = TrainerFn.TESTING
    return trainer


def test_what_was_put_on_data_sets_is_taken_back_once_or_twice(trainer) -> None:
    by_hand = PredictDataset(trainer.datamodule.root / "test/good")
    trainer.predict_loop._data_source.instance = DataLoader(Subset(by_hand, [0]))
    datasets = [trainer.datamodule.train_data, trainer.datamodule.val_data, trainer.datamodule.test_data, by_hand]
    before = [dict(vars(dataset)) for dataset in datasets]
    check_data(trainer, "test")
    assert all(isinstance(dataset.__getitems__, CheckedReading) for dataset in datasets)
    for _ in range(2):
        release_data(trainer)
        assert [vars(dataset).keys() for dataset in datasets] == [attributes.keys() for attributes in before]


def test_a_reading_that_the_user_gave_a_data_set_stays(trainer) -> None:
    def own(indices):
        return [trainer.datamodule.test_data[index] for index in indices]

    trainer.datamodule.test_data.__getitems__ = own
    check_data(trainer, "test")
    release_data(trainer)
    assert trainer.datamodule.test_data.__getitems__ is own


def test_images_of_both_sets_are_told_of(part_folder, trainer, caplog) -> None:
    check_data(trainer, "test")
    assert "are trained on" not in caplog.text
    attach(trainer, make_part_data(part_folder, normal_test_dir="train/good"))
    check_data(trainer, "test")
    assert "Of the 11 test images 8 are trained on, such as" in caplog.text


def test_masks_that_anomalib_synthesises_are_its_own_affair(part_folder) -> None:
    data = make_part_data(part_folder, val_split_mode="synthetic")
    data.setup()
    reading = CheckedReading(data.val_data)
    assert all(item.gt_mask is not None for item in reading(range(len(data.val_data))))


def test_a_normal_image_whose_mask_marks_a_defect_is_named(test_data) -> None:
    defective = test_data.samples.label_index == 1
    test_data.samples.loc[~defective, "mask_path"] = test_data.samples.mask_path[defective].to_numpy()
    with pytest.raises(
        UnusableImageError, match=r"good/000\.png is listed as normal, but its mask \S*hole/000_mask\.png"
    ):
        CheckedReading(test_data)([0])
    Image.new("L", (80, 80)).save(test_data.samples.mask_path[0])
    test_data.samples.loc[1, "mask_path"] = "nowhere.png"
    assert not any(item.gt_mask.any() for item in CheckedReading(test_data)([0, 1]))
