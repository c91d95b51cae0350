# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Compiled networks give the maps and the gradients of the others."""

from copy import deepcopy

import pytest
import torch
from anomalib.deploy import TorchInferencer

from destseg_anomalib import DeSTSeg
from destseg_anomalib.models.destseg import DeSTSegModel
from destseg_anomalib.models.pfadseg import PFADSegModel
from destseg_anomalib.models.student_teacher import StudentTeacherModel
from tests.conftest import assert_near
from tests.integration.conftest import STEPS, TINY, Bench


def untrained(model_class: type[StudentTeacherModel]) -> StudentTeacherModel:
    model = model_class("test_resnet", pre_trained=False).eval()
    model.segmentation.head[-1].weight.data *= 100  # an untrained map is nearly constant
    return model


@pytest.mark.parametrize("model_class", [DeSTSegModel, PFADSegModel])
def test_a_network_compiled_in_place_keeps_its_keys_and_trains_and_maps_batches_of_any_length_alike(
    model_class,
) -> None:
    model = untrained(model_class)
    torch._dynamo.reset()  # it compiles the code of a class a few times at most, and other tests compile it, too
    compiled = deepcopy(model)
    compiled.compile(backend="eager", fullgraph=True)
    assert list(compiled.state_dict()) == list(model.state_dict())  # so a checkpoint of it is one of the network
    images, mask = torch.rand(4, 3, 64, 64), (torch.rand(4, 1, 64, 64) > 0.8).float()
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for count in (4, 4, 3):  # the last batch of a test is a short one
            assert_near(compiled(images[:count]), model(images[:count]), 1e-3)
    for shape in ((2, 3, 64, 64), (1, 3, 64, 96)):
        others = torch.rand(shape)
        with torch.no_grad():
            assert_near(compiled(others), model(others), 1e-3)
    gradients = []
    for network in (model, compiled):
        network.student.train()
        network.student_loss(images, images.flip(-1)).backward()
        network.student.eval()
        network.segmentation.train()
        sum(network.segmentation_losses(images, mask, gamma=4).values()).backward()
        gradients.append([weight.grad for weight in network.parameters() if weight.requires_grad])
    assert all(torch.allclose(*pair, rtol=1e-3, atol=1e-5) for pair in zip(*gradients, strict=True))


def test_a_network_that_is_compiled_as_a_new_module_gives_the_same_map_at_every_size() -> None:
    model = untrained(DeSTSegModel)
    torch._dynamo.reset()
    compiled = torch.compile(deepcopy(model), backend="eager", fullgraph=True)
    with torch.no_grad():
        for shape in ((2, 3, 64, 64), (1, 3, 64, 96)):
            images = torch.rand(shape)
            assert_near(compiled(images), model(images), 1e-3)


def test_a_compiled_model_trains_tests_predicts_and_is_exported_through_the_engine(bench: Bench, monkeypatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    torch._dynamo.reset()
    figures, states, maps = [], [], []
    for compiled in (False, True):
        model, engine = DeSTSeg(**TINY, **STEPS, seed=3), bench.engine()
        if compiled:
            model.model.compile(backend="eager", fullgraph=True)
        engine.fit(model, datamodule=bench.data())
        figures.append(engine.test(model, datamodule=bench.data(), verbose=False)[0])
        picture = bench.parts / "test/hole/000.png"
        maps.append(engine.predict(model, data_path=picture)[0].anomaly_map)
        with torch._dynamo.config.patch(error_on_recompile=True):  # though the copy that is asked is another one
            maps.append(engine.predict(model, data_path=picture)[0].anomaly_map)
        states.append(model.state_dict())
        inferencer = TorchInferencer(model.to_torch(bench.folder), device="cpu")
        if compiled:
            inferencer.model.model.compile(backend="eager", fullgraph=True)
        maps.append(inferencer.predict(picture).anomaly_map)
    assert figures[0] == pytest.approx(figures[1], abs=1e-4, nan_ok=True)
    assert states[0].keys() == states[1].keys()
    assert all(torch.allclose(value, states[1][name], atol=1e-4, equal_nan=True) for name, value in states[0].items())
    eager, *others = (found.squeeze() for found in maps)
    for other in others:
        assert torch.allclose(other, eager, atol=1e-3)
