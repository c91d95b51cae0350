# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The training set is served in full batches, shuffled anew each pass, and read from disk once."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from lightning.fabric.utilities import move_data_to_device
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip

from destseg_anomalib.training import image_file
from destseg_anomalib.training import images as images_module
from destseg_anomalib.training.batches import PackedImages, StepSampler, training_loader
from destseg_anomalib.training.images import Crop, TrainingImages, training_images
from destseg_anomalib.transforms import RoundedBilinearResize
from tests.conftest import make_part_data


def make_datamodule(folder, batch_size: int = 3, **kwargs) -> Folder:
    datamodule = make_part_data(folder, batch_size, **kwargs)
    datamodule.setup()
    datamodule.train_data.augmentations = RoundedBilinearResize((32, 32))
    return datamodule


def loader(datamodule: Folder, batches: int = 5, cache: bool = True, device: torch.device = images_module.CPU):
    images = training_images(datamodule, devices=1, cache=cache, device=device)
    sampler = StepSampler(images, datamodule.train_batch_size, batches, num_replicas=1, rank=0, seed=0)
    return training_loader(images, sampler, num_workers=0, device=device)


def assert_equal(batches: Iterable[PackedImages], others: Iterable[PackedImages]) -> None:
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, others, strict=True))


def indices(sampler: StepSampler) -> list[int]:
    return [index for index, _ in sampler]


def test_there_are_exactly_as_many_batches_as_asked_for_and_all_are_full(part_folder) -> None:
    batches = [batch.images for batch in loader(make_datamodule(part_folder))]
    assert [b.shape for b in batches] == [(3, 3, 32, 32)] * 5
    assert all(b.dtype == torch.uint8 for b in batches)


def test_bytes_become_the_floats_that_a_division_gives() -> None:
    grey = torch.arange(256, dtype=torch.uint8).expand(2, 3, 8, 256)
    batch = move_data_to_device(PackedImages(grey), "cpu")
    assert isinstance(batch, ImageBatch)
    assert batch.image.dtype == torch.float32
    assert torch.equal(batch.image, grey.float() / 255)
    assert move_data_to_device(PackedImages(grey), "meta").image.device.type == "meta"


def test_images_are_kept_on_the_device_that_trains_where_they_fit(part_folder, monkeypatch) -> None:
    """On the device `meta`, which computes shapes alone; no device says of itself that it has room but a real one."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(mem_get_info=lambda _: (2**30, 2**30)))
    on_device = loader(make_datamodule(part_folder), device=meta)
    assert [batch.images.device for batch in on_device] == [meta] * 5
    assert {image.device for image in on_device.dataset.kept.values()} == {meta}
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace())
    assert {batch.images.device.type for batch in loader(make_datamodule(part_folder), device=meta)} == {"cpu"}


def test_a_pass_has_every_image_at_most_once_and_passes_differ(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data)
    order = indices(StepSampler(images, batch_size=4, batches=4, num_replicas=1, rank=0, seed=1))
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]


def test_devices_share_each_batch_and_never_an_image(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data)
    one = indices(StepSampler(images, batch_size=4, batches=6, num_replicas=1, rank=0, seed=1))
    two = [indices(StepSampler(images, batch_size=2, batches=6, num_replicas=2, rank=r, seed=1)) for r in (0, 1)]
    for step in range(6):
        together = two[0][2 * step : 2 * step + 2] + two[1][2 * step : 2 * step + 2]
        assert sorted(together) == sorted(one[4 * step : 4 * step + 4])


def test_a_sampler_that_starts_later_goes_on_with_the_same_images_and_seeds(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data)
    whole, rest = (StepSampler(images, 2, 9, num_replicas=2, rank=1, seed=1, start=start) for start in (0, 5))
    assert list(rest) == list(whole)[10:]
    assert len(rest) == len(whole) == 18  # Lightning counts the batches of an epoch with those that were served before


def test_every_image_of_every_device_has_a_seed_of_its_own(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data)
    samplers = [StepSampler(images, 2, 9, num_replicas=2, rank=r, seed=s) for r in (0, 1) for s in (0, 1)]
    seeds = [seed for sampler in samplers for _, seed in sampler]
    assert len(set(seeds)) == len(seeds) == 4 * 18


@pytest.mark.parametrize("workers", [0, 2])
def test_random_augmentations_are_the_same_in_a_loader_that_starts_later(part_folder, workers) -> None:
    datamodule = make_datamodule(part_folder)
    datamodule.train_data.augmentations = Compose([RoundedBilinearResize((32, 32)), RandomHorizontalFlip()])
    images = TrainingImages(datamodule.train_data)

    def batches(start: int, workers: int) -> list[PackedImages]:
        sampler = StepSampler(images, 2, 6, num_replicas=1, rank=0, seed=1, start=start)
        return list(training_loader(images, sampler, workers))

    whole = batches(0, 0)
    torch.rand(7)  # whatever else draws from torch's generator changes nothing
    assert_equal(batches(4, workers), whole[4:])
    assert len({image.numpy().tobytes() for batch in whole for image in batch.images}) > len(
        images
    )  # some were flipped


def test_reading_an_image_leaves_the_generator_of_others_alone(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data)
    before = torch.get_rng_state()
    images[0, 5]
    assert torch.equal(before, torch.get_rng_state())


def test_cached_and_uncached_images_are_equal_to_the_last_bit(part_folder) -> None:
    datamodule = make_datamodule(part_folder)
    cached, uncached = loader(datamodule), loader(datamodule, cache=False)
    assert_equal(cached, uncached)


def test_cached_images_are_read_once(part_folder) -> None:
    datamodule = make_datamodule(part_folder)
    batches = loader(datamodule, batches=8)
    first = list(batches)
    for path in part_folder.rglob("train/good/*.png"):
        path.unlink()
    assert_equal(first, batches)


def test_augmented_images_are_not_cached(part_folder, caplog, monkeypatch) -> None:
    monkeypatch.setattr(TrainingImages, "__getitem__", lambda *_: pytest.fail("an image was read for nothing"))
    datamodule = make_datamodule(part_folder, train_augmentations=RandomHorizontalFlip())
    with caplog.at_level("INFO"):
        assert loader(datamodule).dataset.kept is None
    assert "since augmentations change them" in caplog.text


@pytest.fixture
def little_memory(monkeypatch, tmp_path) -> Path:
    """A machine whose memory holds no training set; its cache folder."""
    monkeypatch.setattr(images_module, "CACHE_SHARE", 1e-12)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "destseg_anomalib" / "training_images"


def test_a_set_that_would_not_fit_into_memory_is_kept_in_a_file_that_vanishes(
    part_folder, caplog, little_memory
) -> None:
    datamodule = make_datamodule(part_folder)
    with caplog.at_level("INFO"):
        batches = loader(datamodule, batches=8)
    assert f"kept in a file in {little_memory} for this training, since" in caplog.text
    first = list(batches)
    for path in part_folder.rglob("train/good/*.png"):
        path.unlink()
    assert_equal(first, batches)
    assert list(little_memory.iterdir()) == []  # whoever kills the process has nothing to clean up


def test_a_set_that_would_fit_nowhere_is_not_kept(part_folder, caplog, little_memory, monkeypatch) -> None:
    monkeypatch.setattr(images_module, "DISK_SHARE", 0)
    with caplog.at_level("INFO"):
        assert loader(make_datamodule(part_folder)).dataset.kept is None
    assert "exceed a quarter of" in caplog.text


def test_a_disk_that_is_full_costs_time_and_no_training(part_folder, caplog, little_memory, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    batches = loader(make_datamodule(part_folder))
    expected = list(loader(make_datamodule(part_folder), cache=False))
    monkeypatch.setattr(image_file.os, "pwrite", full)
    assert_equal(batches, expected)
    assert "No space left on device" in caplog.text


def test_a_crop_is_a_part_of_its_image_the_same_with_any_cache_and_number_of_workers(
    part_folder, little_memory, monkeypatch
) -> None:
    datamodule = make_datamodule(part_folder)
    whole = [image.numpy() for image in map(TrainingImages(datamodule.train_data).__getitem__, range(8))]

    def crops(start: int = 0, workers: int = 0, **arguments: Any) -> list[PackedImages]:
        images = training_images(datamodule, 1, crop=Crop(12, 2), **arguments)
        sampler = StepSampler(images, 4, 6, num_replicas=1, rank=0, seed=1, start=start)
        return list(training_loader(images, sampler, workers))

    in_a_file = crops(cache=True)
    assert all(crop.images.shape == (4, 3, 16, 16) for crop in in_a_file)
    for batches, first in (
        (crops(cache=False), 0),
        (crops(cache=False, workers=2), 0),
        (crops(start=4, cache=True), 4),
    ):
        assert_equal(batches, in_a_file[first:])
    monkeypatch.setattr(images_module, "CACHE_SHARE", 1)
    assert_equal(crops(cache=True), in_a_file)
    places = set()
    for crop in torch.cat([batch.images for batch in in_a_file]):
        values = crop.numpy()
        found = [
            (index, top, left)
            for index, image in enumerate(whole)
            for top in range(17)
            for left in range(17)
            if (image[:, top : top + 16, left : left + 16] == values).all()
        ]
        assert len(found) == 1
        places.add(found[0][1:])
    assert len(places) > 12  # of 24, in 17 x 17 places


def test_an_image_smaller_than_its_crop_is_told_from_one_without_room_for_a_rotation() -> None:
    image = torch.arange(3 * 20 * 30, dtype=torch.uint8).view(3, 20, 30)
    assert Crop(18, 4).cut(image, 0).shape == (3, 20, 26)
    with pytest.raises(
        ValueError, match=r"^A training image has 20 x 30 pixels after the resize, less than crop_size=24"
    ):
        Crop(24, 0).cut(image, 0)


def test_fewer_images_than_a_batch_recur_in_it_as_evenly_as_they_can(part_folder, caplog) -> None:
    images = training_images(make_datamodule(part_folder, batch_size=9), devices=1, cache=True)
    [warning] = caplog.messages
    assert warning.startswith("The training set has 8 images, fewer than the 9 of one batch: they recur within it")
    order = indices(StepSampler(images, batch_size=9, batches=4, num_replicas=1, rank=0, seed=1))
    for batch in (order[:9], order[9:18], order[27:]):
        assert sorted(map(batch.count, range(8))) == [1] * 7 + [2]
    two = [indices(StepSampler(images, batch_size=10, batches=1, num_replicas=2, rank=r, seed=1)) for r in (0, 1)]
    assert sorted(map((two[0] + two[1]).count, range(8))) == [2] * 4 + [3] * 4


def test_batches_of_one_image_are_refused(part_folder) -> None:
    with pytest.raises(ValueError, match="train_batch_size=1 cannot train"):
        loader(make_datamodule(part_folder, batch_size=1))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_image_that_cannot_be_read_is_named(part_folder, content) -> None:
    broken = part_folder / "train" / "good" / "003.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
    with pytest.raises(ValueError, match=r"The image .*003\.png cannot be read"):
        list(loader(make_datamodule(part_folder), batches=9))
