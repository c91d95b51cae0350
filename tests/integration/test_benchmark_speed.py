# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The speed benchmarks compare like with like, and what they rely on holds: no waiting, no memory by the image."""

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Folder
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from destseg_anomalib import DeSTSeg
from destseg_anomalib.models.losses import cosine_loss
from destseg_anomalib.synthesis import AnomalyGenerator, TextureBank, perlin
from destseg_anomalib.training.averaging import WeightAverage
from destseg_anomalib.training.batches import StepSampler, training_loader
from destseg_anomalib.training.images import training_images
from destseg_anomalib.transforms import RoundedBilinearResize
from tests.conftest import NoFloat64

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def networks():
    return DeSTSeg(backbone="resnet18", pre_trained=False).model.eval()


def test_steps_on_crops_and_a_large_picture_are_timed_beside_small_ones(monkeypatch, tmp_path, capsys) -> None:
    import benchmark_large_images as cost

    monkeypatch.setattr(cost, "SMALL", 64)
    monkeypatch.setattr(cost, "TRAININGS", {"crops in memory": (256, True), "crops in a file": (256, False)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = list(cost.training_table(rounds=1))[1:]
    assert first.startswith("| crops in memory | 0.")
    assert first.endswith("| 1.000 |")
    assert second.startswith("| crops in a file | 0.")
    assert (tmp_path / "cache/destseg_anomalib/training_images").is_dir()
    cost.judge("PyTorch float32", 128, tmp_path)
    name, *figures = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert name == "PyTorch float32"
    assert float(figures[2]) > 0
    monkeypatch.setattr(cost, "BACKBONE", "test_resnet")
    kept, peak = list(cost.many(5, size=128, batch=2, different=2))[-1].strip("| ").split(" | ")
    assert kept == "0.0 GiB in a file"
    assert 0 < float(peak) < 64


def test_the_other_side_draws_masks_with_the_statistics_of_the_official_ones() -> None:
    from official_style import draw_mask

    rng = np.random.default_rng(0)
    area = np.array([draw_mask((256, 256), rng).mean() for _ in range(300)])
    assert area.mean() == pytest.approx(0.0496, abs=0.006)
    assert (area == 0).mean() == pytest.approx(0.044, abs=0.04)
    assert np.quantile(area[area > 0], [0.05, 0.5, 0.95]) == pytest.approx([0.017, 0.047, 0.103], rel=0.25)


def test_the_other_side_blends_within_the_mask_and_by_an_opacity_between_a_fifth_and_one() -> None:
    from official_style import corrupt

    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    pairs = [corrupt(black, white, np.random.default_rng(seed)) for seed in range(20)]
    opacities = [corrupted.max() for corrupted, mask in pairs if mask.any()]
    assert all(((corrupted > 0) == (mask > 0)).all() for corrupted, mask in pairs)
    assert all(0.2 < opacity <= 1 for opacity in opacities)
    assert len(set(opacities)) > 10


def test_both_sides_predict_the_same(networks, monkeypatch) -> None:
    from official_style import predict

    monkeypatch.setattr(networks, "top_t", 100)
    images = torch.rand(2, 3, 64, 64)
    anomaly_map, score = predict(networks, images)
    with torch.no_grad():
        ours = networks(images)
    # The official test upsamples probabilities like ours does.
    assert torch.allclose(anomaly_map, ours.anomaly_map, atol=1e-5)
    assert torch.allclose(score, ours.pred_score, atol=1e-5)


def test_both_sides_train_on_the_same_loss(networks) -> None:
    from official_style import forward

    clean, corrupted = torch.rand(2, 2, 3, 64, 64)
    with torch.no_grad():
        normalized = [(images - networks.mean) / networks.std for images in (clean, corrupted)]
        _, distances = forward(networks, *normalized)
        ours = cosine_loss(networks.teacher(normalized[0]), networks.student(normalized[1]))
    assert torch.allclose(sum(d.mean(dim=(1, 2, 3)).sum() for d in distances), ours, rtol=1e-5)


def test_the_training_tables_account_for_every_step(part_folder, tmp_path) -> None:
    from benchmark_speed import Setting, open_data, training_tables

    # With batches of 2 images this small, running statistics that have seen two of them do not bear bfloat16.
    datamodule, category = open_data(part_folder, batch=4, root=tmp_path)
    lines = "\n".join(training_tables("DeSTSeg", Setting(datamodule, category, "resnet18", (32, 32), 4, 1))).split("\n")
    steps = [
        line.strip("| ").split(" | ") for line in lines if line.startswith(("| float32 | 1 |", "| bfloat16 | 1 |"))
    ]
    steps += [
        line.strip("| ").split(" | ") for line in lines if line.startswith(("| float32 | 2 |", "| bfloat16 | 2 |"))
    ]
    assert len(steps) == 4
    for row in steps:
        assert sum(float(cell.rstrip("%")) for cell in row[5:9]) == pytest.approx(100, abs=0.3)
        assert all(float(cell.rstrip("%")) >= 0 for cell in row[5:9])
        assert float(row[9].rstrip("x")) > 0
    assert sum(line.endswith("x |") for line in lines) == 4 + 3


def test_the_synthesis_table_compares_batches_of_the_same_size(tmp_path) -> None:
    from benchmark_synthesis import cpu_seconds, make_pairs

    pairs = make_pairs(size=32, batch=3, folder=tmp_path)
    assert len(pairs) == 4
    for theirs, ours in pairs.values():
        assert min(cpu_seconds(theirs), cpu_seconds(ours)) > 0
    assert len(pairs["official mask"][0]()) == len(pairs["official mask"][1]()) == 3


def test_a_way_of_inference_gives_time_and_memory_of_each_batch(tmp_path) -> None:
    # In a process of its own, as the script does it: this one may have memory left from other tests.
    command = [sys.executable, EXAMPLES / "inference_paths.py", "DeSTSeg", "resnet18", "32", tmp_path]
    command += ["--batches", "1", "2", "--way", "PyTorch float32"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (first, _), (second, peak) = json.loads(output.splitlines()[-1])
    assert min(first, second) > 0
    assert peak > 100  # the weights alone are 140 MB


@pytest.mark.slow
def test_every_way_of_inference_is_measured() -> None:
    from inference_paths import WAYS, inference_table

    lines = list(inference_table("DeSTSeg", "resnet18", 32, [1, 2]))
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(WAYS)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a host wait for its GPU. A value asked for is refused by the fake tensors themselves."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            assert not (source.device.type == "cuda" and result.device.type == "cpu"), "a tensor came back from the GPU"
        return result


@pytest.fixture
def fake_gpu() -> Iterator[None]:
    """A GPU that computes shapes only, and so has no value that a host could wait for."""
    with FakeTensorMode(allow_non_fake_inputs=True), NoFloat64(), NoWaiting():
        yield
    perlin._axis_table.cache_clear()


@pytest.mark.parametrize("step", [0, 1])
def test_a_training_step_never_waits_for_the_gpu(step, monkeypatch, request) -> None:
    model = DeSTSeg(backbone="resnet18", pre_trained=False, student_steps=1, segmentation_steps=1, distance_weight=0.5)
    bank = TextureBank(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    model.generator, model.seed = AnomalyGenerator(bank, rotation="full"), 0
    loop = SimpleNamespace(total_batch_idx=0)
    model._trainer = SimpleNamespace(global_step=step, global_rank=0, fit_loop=loop, log_every_n_steps=50)
    monkeypatch.setattr(model, "log_dict", lambda *args, **kwargs: None)
    request.getfixturevalue("fake_gpu")
    model.to("cuda:0")
    loss = model.training_step(SimpleNamespace(image=torch.rand(2, 3, 64, 64, device="cuda:0")))
    assert loss.device.type == "cuda"
    assert loss.requires_grad
    average = WeightAverage(model.model.segmentation)
    average.update()
    average.update()


def test_the_fake_gpu_notices_waiting(fake_gpu) -> None:
    value = torch.ones(2, device="cuda:0")
    with pytest.raises(DataDependentOutputException):
        float(value.sum())
    with pytest.raises(AssertionError, match="came back"):
        value.cpu()


def test_a_hundred_thousand_images_take_no_more_memory_than_a_thousand_if_none_are_kept(part_folder) -> None:
    def tensors() -> dict[int, torch.Tensor]:
        return {id(item): item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)}

    others = tensors()  # of earlier tests in this process: those of an export may have symbols for sizes, and no bytes

    def held() -> int:
        """Bytes of Python's and NumPy's objects, and of tensors: unlike the process's memory, the same in each run."""
        gc.collect()
        own = [tensor for key, tensor in tensors().items() if key not in others]
        return tracemalloc.get_traced_memory()[0] + sum(tensor.nbytes for tensor in own)

    def growth(count: int, *, cache: bool) -> int:
        datamodule = Folder("parts", root=part_folder, normal_dir="train/good", train_batch_size=8, num_workers=0)
        datamodule.setup()
        samples = datamodule.train_data.samples
        datamodule.train_data.samples = pd.concat([samples] * -(-count // len(samples)), ignore_index=True)[:count]
        datamodule.train_data.augmentations = RoundedBilinearResize((256, 256))
        before = held()
        images = training_images(datamodule, devices=1, cache=cache)
        sampler = StepSampler(images, batch_size=8, batches=20, num_replicas=1, rank=0, seed=0)
        loader = iter(training_loader(images, sampler, num_workers=0))
        for _ in range(19):  # one is left, so that the iterator still holds its order
            assert next(loader).images.shape == (8, 3, 256, 256)
        return held() - before

    tracemalloc.start()
    try:
        growth(1000, cache=False)  # what libraries allocate when they are used for the first time
        assert growth(1000, cache=True) > 152 * 3 * 256**2  # the images that have passed: the measure sees them
        assert growth(100_000, cache=False) < 10e6  # an order of 100,000 numbers: 4 MB
    finally:
        tracemalloc.stop()
