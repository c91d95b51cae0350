# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Rows of the page "Paper, code, here" that no other test holds."""

import inspect
import math
from collections import Counter

import pytest
import torch
from torchvision.tv_tensors import Mask

from destseg_anomalib import DeSTSeg
from destseg_anomalib.models.destseg.torch_model import DeSTSegModel
from destseg_anomalib.models.losses import cosine_loss
from destseg_anomalib.models.similarity import cosine_distance, l2_normalize
from destseg_anomalib.models.student_teacher import TOP_SHARE, StudentTeacherModel
from destseg_anomalib.models.witness import distance_map
from destseg_anomalib.synthesis import AnomalyGenerator, TextureBank
from destseg_anomalib.transforms import RoundedBilinearResize


@pytest.fixture(scope="module")
def model() -> DeSTSegModel:
    return DeSTSegModel(pre_trained=False)


def maps(seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sizes = ((2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4))
    return [l2_normalize(torch.randn(*size, generator=draw)) for size in sizes]


def test_row_1_the_product_has_the_official_sign(model) -> None:
    class Seen(torch.nn.Module):
        def forward(self, similarity: torch.Tensor) -> torch.Tensor:
            return similarity

    reader = StudentTeacherModel(model.teacher, model.student, Seen())
    teacher, student = maps(0), maps(1)
    assert torch.equal(reader.segment(teacher, student)[:, :4], -teacher[0] * student[0])


def test_row_2_the_opacity_is_above_one_fifth_and_up_to_one(monkeypatch) -> None:
    white = TextureBank(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert AnomalyGenerator(white).opacity == (0.2, 1.0) == DeSTSeg(pre_trained=False).hparams.opacity
    # `torch.rand` may give 0 and never 1: the end that it gives has to be the image replaced.
    monkeypatch.setattr("destseg_anomalib.synthesis.generator.perlin_masks", lambda *_: torch.ones(1, 1, 32, 32))
    monkeypatch.setattr(torch, "rand", lambda *size, generator, dtype: torch.zeros(size, dtype=dtype))
    corrupted = AnomalyGenerator(white)(torch.zeros(1, 3, 32, 32), torch.Generator()).corrupted
    assert (corrupted == 1).all()


def test_row_8_half_of_a_pixel_keeps_it_in_the_mask() -> None:
    half, quarter = torch.tensor([[1, 1], [0, 0]]).bool(), torch.tensor([[1, 0], [0, 0]]).bool()
    assert RoundedBilinearResize((1, 1))(Mask(half)).item() is True
    assert RoundedBilinearResize((1, 1))(Mask(quarter)).item() is False


def test_row_11_every_network_runs_once_and_only_where_it_is_needed(model) -> None:
    runs: Counter[str] = Counter()
    networks = {"teacher": model.teacher, "student": model.student, "segmentation": model.segmentation}
    hooks = [
        network.register_forward_hook(lambda *_, name=name: runs.update([name])) for name, network in networks.items()
    ]
    images, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    model.student_loss(images, images)
    assert runs == {"teacher": 1, "student": 1}
    runs.clear()
    model.segmentation_losses(images, mask, gamma=4)
    assert runs == {"teacher": 1, "student": 1, "segmentation": 1}
    runs.clear()
    model(images)
    assert runs == {"teacher": 1, "student": 1, "segmentation": 1}
    for hook in hooks:
        hook.remove()


def test_row_13_all_but_the_head_start_from_a_kaiming_normal() -> None:
    model = DeSTSegModel(pre_trained=False)
    for conv in (model.student.encoder.layer3[1].conv1, model.student.decoder_layer3[1].conv2):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.out_channels)), rel=0.02)
    conv = model.segmentation.residual[0].conv1
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.out_channels)), rel=0.02)
    conv = model.segmentation.head[1]  # PyTorch's own start is uniform, and bounded by the fan in
    assert conv.weight.abs().max().item() == pytest.approx(1 / math.sqrt(9 * conv.in_channels), rel=1e-3)


def test_row_15_without_segmentation_the_distances_are_multiplied() -> None:
    teacher, student = maps(2), maps(3)
    expected = torch.ones(2, 1, 16, 16)
    for t, s in zip(teacher, student, strict=True):
        expected = expected * torch.nn.functional.interpolate(cosine_distance(t, s), (16, 16), mode="bilinear")
    assert torch.allclose(distance_map(teacher, student), expected, atol=1e-6)


def test_row_16_without_denoising_the_student_runs_once_on_clean_images() -> None:
    model = DeSTSegModel(pre_trained=False, denoising=False).train()
    seen = []
    model.student.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    clean = torch.rand(2, 3, 64, 64)
    model.student_loss(clean, torch.zeros_like(clean))
    assert len(seen) == 1
    assert torch.equal(seen[0], model.normalize(clean))
    assert model.student.encoder.bn1.num_batches_tracked == 1


def test_row_17_normalised_vectors_have_length_one_and_the_loss_reads_them() -> None:
    features = [3 * torch.randn(2, 4, 5, 5)]
    assert torch.allclose(l2_normalize(features[0]).norm(dim=1), torch.ones(2, 5, 5), atol=1e-6)
    assert cosine_loss(features, [7 * features[0]]).item() == pytest.approx(0, abs=1e-5)


def test_rows_19_and_26_the_defaults_are_the_official_schedule_and_teacher() -> None:
    defaults = {name: p.default for name, p in inspect.signature(DeSTSeg).parameters.items()}
    official = {
        "backbone": "resnet18.tv_in1k",
        "student_steps": 1000,
        "segmentation_steps": 4000,
        "focal_gamma": 4.0,
        "top_t": None,  # 100 pixels of these images
        "image_size": (256, 256),
    }
    assert {name: defaults[name] for name in official} == official
    assert round(TOP_SHARE * 256 * 256) == 100
    assert DeSTSeg(pre_trained=False).trainer_arguments["max_steps"] == 5000
