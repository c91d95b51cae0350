# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The network gives the numbers of the official code, from weights in the official layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from destseg_anomalib.models.destseg.torch_model import DeSTSegModel
from destseg_anomalib.models.losses import cosine_loss, focal_loss, l1_loss
from destseg_anomalib.models.similarity import cosine_distance
from destseg_anomalib.models.witness import distance_map


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "fixtures" / "destseg_reference_forward.npz"))


@pytest.fixture(scope="module")
def official_state(shared: Path, seeded_state) -> dict[str, torch.Tensor]:
    shapes = json.loads((shared / "fixtures" / "destseg_reference_state.json").read_text())
    kinds = {True: torch.int64, False: torch.float32}
    empty = {n: torch.zeros(s, dtype=kinds[n.endswith("num_batches_tracked")]) for n, s in shapes.items()}
    return seeded_state.fill(empty)


@pytest.fixture(scope="module")
def model(official_state: dict[str, torch.Tensor]) -> DeSTSegModel:
    model = DeSTSegModel(pre_trained=False).eval()
    model.load_reference_state_dict(official_state)
    return model


@pytest.fixture(scope="module")
def images(model: DeSTSegModel, seeded_state) -> dict[str, torch.Tensor]:
    """The reference images; they are normalised already, and our model normalises by itself."""
    seeds = {"corrupted": 11, "clean": 111}
    return {k: seeded_state.seeded_images(2, 256, 256, s) * model.std + model.mean for k, s in seeds.items()}


def largest_difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - theirs.reshape(ours.shape)).max())


@torch.no_grad()
def test_segmentation_and_distance_maps_are_the_official_ones(model, images, reference) -> None:
    teacher, student = model.features(images["corrupted"])
    assert largest_difference(model.segment(teacher, student).sigmoid(), reference["a_seg"]) < 1e-5
    assert largest_difference(distance_map(teacher, student), reference["a_dest"]) < 1e-5


@torch.no_grad()
def test_distances_to_the_clean_image_are_the_official_ones(model, images, reference) -> None:
    teacher, _ = model.features(images["clean"])
    _, student = model.features(images["corrupted"])
    for level in range(3):
        assert largest_difference(cosine_distance(teacher[level], student[level]), reference[f"a_dist{level}"]) < 1e-5
    official = sum(reference[f"a_dist{level}"].mean(axis=(-2, -1)).sum() for level in range(3))
    ours = model.student_loss(images["clean"], images["corrupted"])
    assert ours.item() == pytest.approx(official, rel=1e-6)
    assert cosine_loss(teacher, student).item() == pytest.approx(official, rel=1e-6)


def test_segmentation_losses_are_the_official_ones(reference) -> None:
    draw = torch.Generator().manual_seed(5)
    probabilities = torch.rand(2, 1, 64, 64, generator=draw).clamp(1e-4, 1 - 1e-4)
    mask = (torch.rand(2, 1, 64, 64, generator=draw) > 0.8).float()
    assert focal_loss(probabilities.logit(), mask, gamma=4).item() == pytest.approx(float(reference["focal"]), abs=1e-6)
    assert l1_loss(probabilities.logit(), mask).item() == pytest.approx(float(reference["l1"]), abs=1e-6)


def test_parameters_are_as_many_as_the_papers(model) -> None:
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(n for n, _ in counts) == 35_154_177
    assert sum(n for n, trained in counts if trained) == 32_371_393
    assert sum(p.numel() for p in model.student.parameters()) == 24_665_024
    assert sum(p.numel() for p in model.segmentation.parameters()) == 7_706_369


def test_an_official_checkpoint_with_a_tensor_too_few_or_too_many_is_refused(model, official_state) -> None:
    missing = dict(official_state)
    missing.pop("segmentation_net.head.4.bias")
    with pytest.raises(ValueError, match=r"not an official DeSTSeg checkpoint.*segmentation\.head\.4\.bias"):
        model.load_reference_state_dict(missing)
    with pytest.raises(ValueError, match=r"not an official DeSTSeg checkpoint.*extra\.weight"):
        model.load_reference_state_dict(official_state | {"extra.weight": torch.zeros(1)})
