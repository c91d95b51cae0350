# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""On which images a model is trained, and what their pixels are when it sees them."""

import functools
import logging
from pathlib import Path
from typing import Any

import anomalib.models
import cv2
import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem
from anomalib.pipelines.tiled_ensemble import TrainTiledEnsemble
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Compose, Normalize, Resize

from destseg_anomalib import DeSTSeg, PFADSeg, RoundedBilinearResize
from destseg_anomalib.synthesis import AnomalyGenerator, texture_bank
from tests.integration.conftest import STEPS, TINY, Bench, expect
from tests.integration.test_checkpoints_decide import Save

IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Batches(Callback):
    """Keeps what a model is trained on."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.images.append(batch.image.clone())


def fit(bench: Bench, data: Any = None, engine: dict[str, Any] | None = None, **model: Any) -> list[torch.Tensor]:
    seen, made = Batches(), bench.engine()
    made._cache.args.update(engine or {}, callbacks=[seen])
    made.fit(DeSTSeg(**(TINY | STEPS | model)), datamodule=data or bench.data())
    return seen.images


def random_split(bench: Bench, seed: int) -> Folder:
    """Good test images are set aside at random, as anomalib does where there is no folder of them."""
    return bench.data(normal_test_dir=None, seed=seed)


@pytest.fixture
def begun(bench: Bench) -> Path:
    """A checkpoint in the middle of a training on the split of seed 1."""
    engine = bench.engine()
    engine._cache.args["callbacks"].append(Save(bench.folder / "begun.ckpt", 1))
    engine.fit(DeSTSeg(**TINY, **STEPS), datamodule=random_split(bench, 1))
    return bench.folder / "begun.ckpt"


def resume(bench: Bench, data: Folder, checkpoint: Path) -> None:
    bench.engine().fit(DeSTSeg(**TINY, **STEPS), datamodule=data, ckpt_path=checkpoint)


def other_seed(bench: Bench) -> int:
    """A seed that sets other images aside than seed 1."""

    def held_out(seed: int) -> set[str]:
        data = random_split(bench, seed)
        data.setup()
        return {path for path in data.test_data.samples.image_path if "train" in path}

    return next(seed for seed in range(2, 50) if held_out(seed) - held_out(1))


def test_a_training_does_not_go_on_where_its_images_have_become_the_test(bench: Bench, begun: Path) -> None:
    sentence = (
        r"^\d of the 7 images that this training began with are now set aside to test it, .*: train anew with data"
    )
    expect(sentence, lambda: resume(bench, random_split(bench, other_seed(bench)), begun))


def test_a_training_goes_on_with_the_same_split_wherever_the_set_lies_now(bench: Bench, begun: Path, caplog) -> None:
    bench.parts = bench.parts.rename(bench.folder / "moved")
    with caplog.at_level(logging.WARNING):
        resume(bench, random_split(bench, 1), begun)
    assert "training images" not in caplog.text


def test_numbers_in_another_collection_are_no_other_arguments(bench: Bench, begun: Path, caplog) -> None:
    model = DeSTSeg(**(TINY | {"image_size": [32, 32]}), **STEPS)
    bench.engine().fit(model, datamodule=random_split(bench, 1), ckpt_path=begun)
    assert "other arguments" not in caplog.text


def test_images_of_equal_names_in_the_folders_of_training_and_test_are_two_images(bench: Bench, caplog) -> None:
    for name in ("train/good", "test/good"):
        (bench.parts / name).rename(bench.parts / f"{name}_")
        (bench.parts / name / "line").parent.mkdir()
        (bench.parts / f"{name}_").rename(bench.parts / name / "line")
    data = {"normal_dir": "train/good/line", "normal_test_dir": "test/good/line"}
    model = DeSTSeg(**TINY, **STEPS)
    bench.engine().train(model, datamodule=bench.data(**data))
    assert "trained on" not in caplog.text


def test_a_training_that_goes_on_with_more_images_says_so(bench: Bench, caplog) -> None:
    engine = bench.engine()
    engine._cache.args["callbacks"].append(Save(bench.folder / "begun.ckpt", 1))
    engine.fit(DeSTSeg(**TINY, **STEPS), datamodule=bench.data())
    (bench.parts / "train/good/000.png").rename(bench.parts / "train/good/100.png")
    resume(bench, bench.data(), bench.folder / "begun.ckpt")
    assert "1 new and 1 missing training images" in caplog.text


def test_a_test_on_images_that_were_trained_on_says_so(bench: Bench, begun: Path, caplog) -> None:
    bench.engine().test(DeSTSeg(), datamodule=random_split(bench, 1), ckpt_path=begun, verbose=False)
    assert "were trained on" not in caplog.text
    data = random_split(bench, other_seed(bench))
    bench.engine().test(DeSTSeg(), datamodule=data, ckpt_path=begun, verbose=False)
    assert (
        "of the 7 test images were trained on" in caplog.text or "of the 4 test images were trained on" in caplog.text
    )


def test_fewer_images_than_a_batch_recur_within_it_with_one_warning(bench: Bench, caplog) -> None:
    images = fit(bench, bench.data(batch_size=20), student_steps=2)
    assert [len(batch) for batch in images] == [20] * 3
    for batch in images:
        counts = torch.unique(batch, dim=0, return_counts=True)[1]
        assert sorted(counts.tolist()) == [2] * 4 + [3] * 4
    assert caplog.text.count("The training set has 8 images, fewer than the 20 of one batch") == 1


def test_one_image_and_anomalibs_default_batch_train(bench: Bench) -> None:
    for path in sorted((bench.parts / "train/good").iterdir())[1:]:
        path.unlink()
    assert [len(batch) for batch in fit(bench, bench.data(batch_size=32))] == [32, 32]


@pytest.mark.parametrize(
    ("option", "kinds"), [({"overfit_batches": 1}, 1), ({"overfit_batches": 2}, 2), ({"limit_train_batches": 1}, 4)]
)
def test_short_epochs_go_through_both_phases(bench: Bench, option: dict[str, Any], kinds: int) -> None:
    images = fit(bench, engine=option, student_steps=2, segmentation_steps=2)
    assert len(images) == 4
    assert len({batch.numpy().tobytes() for batch in images}) == kinds


def test_values_that_an_interpolation_adds_beyond_black_and_white_do_not_wrap_around(bench: Bench) -> None:
    part = np.zeros((80, 80, 3), np.uint8)
    part[20:60, 20:60] = 255
    for path in (bench.parts / "train/good").iterdir():
        cv2.imwrite(str(path), part)
    bicubic = Resize((32, 32), interpolation=InterpolationMode.BICUBIC, antialias=True)
    data = bench.data()
    images = fit(bench, data, pre_processor=PreProcessor(bicubic))
    item = data.train_data[0].image
    assert item.min() < 0
    assert item.max() > 1
    assert all((image - item).abs().max() < 0.05 for batch in images for image in batch)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_other_precisions_train_on_the_same_anomalies(bench: Bench, precision: str) -> None:
    images = torch.rand(2, 3, 32, 48)
    expected = AnomalyGenerator(texture_bank(None, (32, 48)))(images, torch.Generator().manual_seed(1))
    dtype = torch.float64 if precision == "64-true" else torch.bfloat16
    torch.set_default_dtype(dtype)
    try:
        corrupted = AnomalyGenerator(texture_bank(None, (32, 48)))(images.to(dtype), torch.Generator().manual_seed(1))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(expected.mask, corrupted.mask)
    assert corrupted.corrupted.dtype == dtype
    assert len(fit(bench, engine={"precision": precision})) == 2


SPOILED = [
    ("pre-processor", {}, {"pre_processor": PreProcessor(Compose([RoundedBilinearResize((32, 32)), IMAGENET]))}),
    ("train_augmentations", {"train_augmentations": Compose([IMAGENET])}, {}),
    ("val_augmentations", {"val_augmentations": IMAGENET}, {}),
]


@pytest.mark.parametrize(("place", "data", "model"), SPOILED, ids=[row[0] for row in SPOILED])
def test_images_are_not_normalised_twice(bench: Bench, place: str, data: dict, model: dict) -> None:
    sentence = (
        rf"^Images would be normalised twice, by Normalize in .*{place} and by DeSTSeg itself: take Normalize out"
    )
    expect(sentence, lambda: fit(bench, bench.data(**data), **model))


def test_a_test_is_not_normalised_twice_either(bench: Bench) -> None:
    expect("^Images would be normalised twice", lambda: bench.test(bench.data(test_augmentations=IMAGENET)))


class Centred(Resize):
    """A normalisation of a user's own."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt if inpt.dtype == torch.bool else 40 * (inpt - 0.5)


def test_augmentations_that_leave_the_range_are_refused_in_a_test_too(bench: Bench) -> None:
    data = bench.data(test_augmentations=Compose([Centred((32, 32))]))
    expect(r"^The image \S*/\d+\.png has values from .* after its augmentations", lambda: bench.test(data))


def test_a_training_on_loaders_by_hand_reads_these_though_a_data_module_was_there_before(bench: Bench) -> None:
    black = [ImageItem(image=torch.zeros(3, 32, 32)) for _ in range(8)]
    loader = DataLoader(black, batch_size=4, collate_fn=ImageBatch.collate)
    model, engine, seen = DeSTSeg(**TINY, **STEPS), bench.engine(), Batches()
    engine._cache.args["callbacks"].append(seen)
    engine.validate(model, datamodule=bench.data())
    engine.fit(model, train_dataloaders=loader, val_dataloaders=loader)
    assert len(seen.images) == 2
    assert all((batch == 0).all() for batch in seen.images)


def test_augmentations_that_leave_the_range_are_refused_by_the_name_of_an_image(bench: Bench) -> None:
    sentence = r"^The image \S*good/\d+\.png has values from -?\d.* after its augmentations .*: leave normalisation"
    expect(sentence, lambda: fit(bench, bench.data(train_augmentations=Compose([Centred((32, 32))]))))


@pytest.mark.parametrize(
    ("model_class", "smaller"), [(DeSTSeg, {"encoder_decoder": False}), (PFADSeg, {"aff": False, "pcar": False})]
)
def test_the_tiled_ensemble_passes_its_stages_and_trains_on_tiles(
    bench: Bench, model_class: type, smaller: dict[str, bool], monkeypatch
) -> None:
    seen, step = set(), model_class.training_step

    def look(self: Any, batch: Any, *args: Any) -> Any:
        seen.add(tuple(batch.image.shape[-2:]))
        return step(self, batch, *args)

    options = {"backbone": "test_resnet", "pre_trained": False, "image_size": (64, 64), "student_lr": 0.01} | smaller
    monkeypatch.setattr(model_class, "training_step", look)
    monkeypatch.setattr(anomalib.models, model_class.__name__, functools.partial(model_class, **options, **STEPS))
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/hole"}
    sizes = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, "val_split_mode": "same_as_test"}
    arguments = {"name": "parts", "root": str(bench.parts), "mask_dir": "ground_truth/hole"} | folders | sizes
    config = {
        "seed": 1,
        "accelerator": "cpu",
        "default_root_dir": str(bench.folder / "ensemble"),
        "tiling": {"image_size": [64, 64], "tile_size": [32, 64], "stride": [32, 64]},
        "normalization_stage": "image",
        "thresholding_stage": "image",
        "data": {"class_path": "Folder", "init_args": arguments},
        "SeamSmoothing": {"apply": True, "sigma": 2, "width": 0.1},
        "TrainModels": {"model": {"class_path": model_class.__name__}, "trainer": {"logger": False}},
    }
    result, stages = None, []
    for runner in TrainTiledEnsemble()._setup_runners(config):
        name = runner.generator.job_class.name
        result = runner.run(config.get(name) or config, result)
        stages.append(name)
    assert len(stages) == 5
    assert seen == {(32, 64)}
