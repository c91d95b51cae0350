# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A test and a prediction ask networks whose batch norms are folded, and leave the model as it was."""

from copy import deepcopy

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer

from destseg_anomalib import DeSTSeg
from destseg_anomalib.deployment.folded import FoldedPrediction
from tests.integration.conftest import Bench


class Asked(Callback):
    """Notes how many batch norms each batch meets, and perhaps stops there."""

    def __init__(self, *, stops: bool = False) -> None:
        self.stops = stops
        self.norms: list[int] = []
        self.compiled: list[bool] = []

    def on_test_batch_start(self, _: Trainer, pl_module: LightningModule, *__: object) -> None:
        asked = pl_module.model if pl_module.folded is None else pl_module.folded.__self__
        self.norms.append(sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in asked.modules()))
        self.compiled.append(asked._compiled_call_impl is not None)
        if self.stops:
            raise RuntimeError

    on_predict_batch_start = on_test_batch_start


def engine(bench: Bench, asked: Asked) -> Engine:
    return Engine(default_root_dir=bench.folder, callbacks=[asked], logger=False, enable_progress_bar=False)


def test_test_and_prediction_say_without_batch_norms_what_they_say_with_them(bench: Bench, monkeypatch) -> None:
    said = []
    for folds in (True, False):
        if not folds:
            monkeypatch.setattr(FoldedPrediction, "_fold", lambda _: None)
        asked, model = Asked(), DeSTSeg.load_from_checkpoint(bench.checkpoint)
        # A map that hardly varies would be stretched by the post-processor, and every rounding with it.
        model.model.segmentation.head[-1].weight.data *= 100
        for bound, value in {"image_min": 0, "image_max": 1, "pixel_min": 0, "pixel_max": 1}.items():
            getattr(model.post_processor, bound).fill_(value)
        keys = [*model.state_dict()]
        [figures] = engine(bench, asked).test(model, datamodule=bench.data(), verbose=False)
        maps = [batch.anomaly_map for batch in engine(bench, asked).predict(model, datamodule=bench.data())]
        assert [*model.state_dict()] == keys
        assert len(asked.norms) > len(maps)
        assert all((norms == 0) == folds for norms in asked.norms)
        said.append((figures, torch.cat(maps)))
    (figures, maps), (expected, expected_maps) = said
    assert figures == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert expected_maps.std() > 1e-2
    assert torch.allclose(maps, expected_maps, atol=1e-4)


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_stage_that_fails_leaves_nothing_folded_behind(bench: Bench, stage: str) -> None:
    model = DeSTSeg.load_from_checkpoint(bench.checkpoint)
    with pytest.raises(RuntimeError):
        getattr(engine(bench, Asked(stops=True)), stage)(model, datamodule=bench.data())
    assert model.folded is None
    before = {name: value.clone() for name, value in model.model.segmentation.state_dict().items()}
    bench.engine().fit(model, datamodule=bench.data())  # learns, rather than a copy of it
    after = model.model.segmentation.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_what_is_asked_is_compiled_if_the_networks_are_and_no_copy_remembers_how(bench: Bench) -> None:
    model = DeSTSeg.load_from_checkpoint(bench.checkpoint)
    seen = []
    for compiles in (False, True):
        if compiles:
            model.model.compile(backend=lambda graph, _: graph.forward)  # which could not be stored
        asked = Asked()
        engine(bench, asked).predict(model, datamodule=bench.data())
        seen.append(asked.compiled)
    assert not any(seen[0])
    assert all(seen[1])
    assert deepcopy(model.model).compiled_with is None
    assert model.to_torch(bench.folder).is_file()
