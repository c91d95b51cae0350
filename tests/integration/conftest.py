# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A tiny trained model, and anomalib's doors to it, for the tables of odd inputs."""

import functools
import gc
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from destseg_anomalib import DeSTSeg
from destseg_anomalib.data import demo
from destseg_anomalib.synthesis import textures
from tests.conftest import make_part_data, make_part_folder, quiet_engine
from tests.integration.forks import Forks

# timm's smallest residual network, random weights, a student without decoder: 10 million weights in all.
TINY = {"backbone": "test_resnet", "pre_trained": False, "image_size": (32, 32), "encoder_decoder": False}
STEPS = {"student_steps": 1, "segmentation_steps": 1}
SUCCESS = None


@dataclass
class Bench:
    """Parts of a test's own, a model that was trained once for all tests, and a folder for results."""

    folder: Path
    parts: Path
    model: DeSTSeg
    checkpoint: Path
    loader_workers: int = 0

    def engine(self) -> Engine:
        return quiet_engine(self.folder / "results")

    def data(self, **kwargs: Any) -> Any:
        return make_part_data(self.parts, num_workers=self.loader_workers, **kwargs)

    def train(self, data: Any = None, **model: Any) -> None:
        self.engine().fit(DeSTSeg(**(TINY | STEPS | model)), datamodule=data or self.data())

    def test(self, data: Any = None, checkpoint: Path | None = None) -> dict[str, float]:
        engine, path = self.engine(), checkpoint or self.checkpoint
        figures = engine.test(self.model, datamodule=data or self.data(), ckpt_path=path, verbose=False)
        return figures[0] if figures else {}

    def predict(self, path: Path | None = None) -> list[Any]:
        path = path or self.parts / "test" / "good"
        return self.engine().predict(self.model, data_path=path, ckpt_path=self.checkpoint)

    def stored(self) -> dict[str, Any]:
        """The content of the checkpoint, to be changed and stored elsewhere."""
        return torch.load(self.checkpoint, weights_only=True)


@pytest.fixture(autouse=True)
def nothing_left_in_memory() -> Iterator[None]:
    """Free what a test trained: model and trainer refer to each other, and Python sees few objects, not gigabytes."""
    yield
    gc.collect()
    if len(gc.get_objects()) > 50_000:
        gc.freeze()  # they are libraries that this test was the first to import, and would be searched after every test


@pytest.fixture(scope="session", autouse=True)
def built_in_textures_are_drawn_once() -> Iterator[None]:
    """They depend on their size alone, and drawing them takes a third of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textures, "builtin_textures", functools.cache(textures.builtin_textures))
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Programs in processes of their own that need not import anomalib first."""
    with Forks(tmp_path_factory.mktemp("forks")) as made:
        yield made


@pytest.fixture(scope="session")
def tiny_trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeSTSeg, Path]:
    """Train once; the checkpoint is kept without the state of the optimiser, which half of it is."""
    folder = tmp_path_factory.mktemp("trained")
    bench = Bench(folder, make_part_folder(folder), DeSTSeg(**TINY, **STEPS), folder / "model.ckpt")
    engine = bench.engine()
    engine.fit(bench.model, datamodule=bench.data())
    content = torch.load(engine.best_model_path, weights_only=True)
    torch.save(content | {"optimizer_states": []}, bench.checkpoint)
    shutil.rmtree(bench.folder / "results")
    return bench.model, bench.checkpoint


@pytest.fixture(scope="session")
def all_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_part_folder(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def bench(tiny_trained: tuple[DeSTSeg, Path], all_parts: Path, tmp_path: Path) -> Bench:
    return Bench(tmp_path, Path(shutil.copytree(all_parts, tmp_path / "parts")), *tiny_trained)


def few_pieces(patch: pytest.MonkeyPatch) -> None:
    """Make the demo of few pictures, for tests that do not ask which."""
    for name, count in {"TRAIN_GOOD": 8, "TEST_GOOD": 2, "PER_DEFECT": 1}.items():
        patch.setattr(demo, name, count)


def expect(expectation: str | None, action: Callable[[], Any]) -> Any:
    """Take an action that ends well, or in one sentence of ours that matches a pattern."""
    if expectation is SUCCESS:
        return action()
    with pytest.raises((ValueError, OSError)) as caught:
        action()
    sentence = str(caught.value)
    assert re.search(expectation, sentence), sentence
    assert len(sentence.splitlines()) == 1
    assert sentence.endswith(".")
    return None
