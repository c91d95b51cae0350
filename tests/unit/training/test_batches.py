# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The training set is served in full batches, shuffled anew each pass, and read from disk once."""

import pytest
import torch
from anomalib.data import Folder
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip

from destseg_anomalib.training import batches as batches_module
from destseg_anomalib.training.batches import StepSampler, TrainingImages, training_images, training_loader
from destseg_anomalib.transforms import RoundedBilinearResize
from tests.conftest import make_part_data


def make_datamodule(folder, batch_size: int = 3, **kwargs) -> Folder:
    datamodule = make_part_data(folder, batch_size, **kwargs)
    datamodule.setup()
    datamodule.train_data.augmentations = RoundedBilinearResize((32, 32))
    return datamodule


def loader(datamodule: Folder, batches: int = 5, cache: bool = True):
    images = training_images(datamodule, devices=1, cache=cache)
    sampler = StepSampler(images, datamodule.train_batch_size, batches, num_replicas=1, rank=0, seed=0)
    return training_loader(images, sampler, num_workers=0)


def indices(sampler: StepSampler) -> list[int]:
    return [index for index, _ in sampler]


def test_there_are_exactly_as_many_batches_as_asked_for_and_all_are_full(part_folder) -> None:
    batches = [batch.image for batch in loader(make_datamodule(part_folder))]
    assert [b.shape for b in batches] == [(3, 3, 32, 32)] * 5
    assert all(b.dtype == torch.float32 and b.min() >= 0 and b.max() <= 1 for b in batches)


def test_a_pass_has_every_image_at_most_once_and_passes_differ(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data, cache=False)
    order = indices(StepSampler(images, batch_size=4, batches=4, num_replicas=1, rank=0, seed=1))
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]


def test_devices_share_each_batch_and_never_an_image(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data, cache=False)
    one = indices(StepSampler(images, batch_size=4, batches=6, num_replicas=1, rank=0, seed=1))
    two = [indices(StepSampler(images, batch_size=2, batches=6, num_replicas=2, rank=r, seed=1)) for r in (0, 1)]
    for step in range(6):
        together = two[0][2 * step : 2 * step + 2] + two[1][2 * step : 2 * step + 2]
        assert sorted(together) == sorted(one[4 * step : 4 * step + 4])


def test_a_sampler_that_starts_later_goes_on_with_the_same_images_and_seeds(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data, cache=False)
    whole, rest = (StepSampler(images, 2, 9, num_replicas=2, rank=1, seed=1, start=start) for start in (0, 5))
    assert list(rest) == list(whole)[10:]
    assert len(rest) == len(whole) == 18  # Lightning counts the batches of an epoch with those that were served before


def test_every_image_of_every_device_has_a_seed_of_its_own(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data, cache=False)
    samplers = [StepSampler(images, 2, 9, num_replicas=2, rank=r, seed=s) for r in (0, 1) for s in (0, 1)]
    seeds = [seed for sampler in samplers for _, seed in sampler]
    assert len(set(seeds)) == len(seeds) == 4 * 18


@pytest.mark.parametrize("workers", [0, 2])
def test_random_augmentations_are_the_same_in_a_loader_that_starts_later(part_folder, workers) -> None:
    datamodule = make_datamodule(part_folder)
    datamodule.train_data.augmentations = Compose([RoundedBilinearResize((32, 32)), RandomHorizontalFlip()])
    images = TrainingImages(datamodule.train_data, cache=False)

    def batches(start: int, workers: int) -> list[torch.Tensor]:
        sampler = StepSampler(images, 2, 6, num_replicas=1, rank=0, seed=1, start=start)
        return [batch.image for batch in training_loader(images, sampler, workers)]

    whole = batches(0, 0)
    torch.rand(7)  # whatever else draws from torch's generator changes nothing
    assert all(torch.equal(*pair) for pair in zip(batches(4, workers), whole[4:], strict=True))
    assert len({image.numpy().tobytes() for image in torch.cat(whole)}) > len(images)  # some were flipped


def test_reading_an_image_leaves_the_generator_of_others_alone(part_folder) -> None:
    images = TrainingImages(make_datamodule(part_folder).train_data, cache=False)
    before = torch.get_rng_state()
    images[0, 5]
    assert torch.equal(before, torch.get_rng_state())


def test_cached_and_uncached_images_are_equal_to_the_last_bit(part_folder) -> None:
    datamodule = make_datamodule(part_folder)
    cached, uncached = loader(datamodule), loader(datamodule, cache=False)
    assert all(torch.equal(a.image, b.image) for a, b in zip(cached, uncached, strict=True))


def test_cached_images_are_read_once(part_folder) -> None:
    datamodule = make_datamodule(part_folder)
    batches = loader(datamodule, batches=8)
    first = list(batches)
    for path in part_folder.rglob("train/good/*.png"):
        path.unlink()
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, batches, strict=True))


def test_augmented_images_are_not_cached(part_folder, caplog, monkeypatch) -> None:
    monkeypatch.setattr(TrainingImages, "__getitem__", lambda *_: pytest.fail("an image was read for nothing"))
    datamodule = make_datamodule(part_folder, train_augmentations=RandomHorizontalFlip())
    with caplog.at_level("INFO"):
        assert not loader(datamodule).dataset.cache
    assert "since augmentations change them" in caplog.text


def test_a_set_that_would_not_fit_is_not_cached(part_folder, caplog, monkeypatch) -> None:
    monkeypatch.setattr(batches_module, "CACHE_SHARE", 1e-12)
    with caplog.at_level("INFO"):
        assert not loader(make_datamodule(part_folder)).dataset.cache
    assert "exceed a quarter of" in caplog.text


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
