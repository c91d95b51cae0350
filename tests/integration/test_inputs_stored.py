# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Odd checkpoints, textures and caches end in success or in one sentence that says what, where and what to do.

Each row: what is odd, and the sentence expected, or SUCCESS.
"""

import errno
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from anomalib.models import Padim

from destseg_anomalib import PFADSeg
from destseg_anomalib.data import DemoSurfaces
from destseg_anomalib.synthesis import textures as textures_module
from tests.integration.conftest import SUCCESS, Bench, expect

WEIGHT = "model.segmentation.head.1.weight"
Content = dict[str, Any]


def weights(**changed: torch.Tensor) -> Callable[[Content], Content]:
    """Put other tensors into the state of the model; `__` stands for a dot."""
    return lambda content: (
        content
        | {"state_dict": content["state_dict"] | {name.replace("__", "."): value for name, value in changed.items()}}
    )


def arguments(**changed: Any) -> Callable[[Content], Content]:
    return lambda content: content | {"hyper_parameters": content["hyper_parameters"] | changed}


def damaged(value: float) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        content["state_dict"][WEIGHT][0, 0, 0, 0] = value
        return content

    return change


def of_another_model(model_class: type, **kwargs: Any) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        model = model_class(**kwargs)
        return content | {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}

    return change


def of_a_newer_version(content: Content) -> Content:
    state = content["state_dict"] | {"model.segmentation.gate.weight": torch.zeros(3)}
    return content | {"state_dict": state, "training": content["training"] | {"version": "9.1.0"}}


BACKBONE = r"holds another network than the DeSTSeg of .*: \d+ tensors differ \(first: model\.segmentation\."
NOT_OURS = "^The checkpoint is not one of DeSTSeg, .*: choose its own model"
NO_NUMBERS = rf"^The checkpoint holds NaN or infinite weights in 1 of \d+ tensors \(first: {WEIGHT}\).*use an earlier"
NEWER = r"of destseg-anomalib 9\.1\.0 holds another network .* 1 tensors differ \(first: model\.segmentation\.gate"
OTHER_SHAPE = r"holds another network than the DeSTSeg .* 1 tensors differ .*; use the version that wrote it, or train"
NO_LIGHTNING = r"^\S*odd\.ckpt holds no model that Lightning stored: give a \.ckpt file that training wrote\.$"
PADIM = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False, "n_features": 10}
CONTENT_ROWS = [
    ("as it was", lambda content: content, SUCCESS),
    ("with a NaN", damaged(math.nan), NO_NUMBERS),
    ("with an infinite weight", damaged(math.inf), NO_NUMBERS),
    ("of PFADSeg", of_another_model(PFADSeg, backbone="test_resnet"), NOT_OURS),
    (
        "of a model of anomalib's",
        of_another_model(Padim, **PADIM),
        NOT_OURS,
    ),
    ("that names another backbone than its weights have", arguments(backbone="resnet18"), BACKBONE),
    ("of a newer version with another network", of_a_newer_version, NEWER),
    ("of a newer version with one argument more", arguments(novelty=3), SUCCESS),
    ("with a tensor of another shape", weights(model__segmentation__head__4__bias=torch.zeros(2)), OTHER_SHAPE),
    ("without arguments", lambda content: content | {"hyper_parameters": {}}, NOT_OURS),
    ("of weights alone", lambda content: content["state_dict"], NO_LIGHTNING),
    ("of weights under the right key", lambda content: {"state_dict": content["state_dict"]}, NO_LIGHTNING),
    ("that is a list", lambda content: [content["global_step"]], NO_LIGHTNING),
]


@pytest.mark.parametrize(("change", "expectation"), [pytest.param(*row[1:], id=row[0]) for row in CONTENT_ROWS])
def test_a_checkpoint(bench: Bench, change: Callable, expectation: str | None) -> None:
    torch.save(change(bench.stored()), bench.folder / "odd.ckpt")
    figures = expect(expectation, lambda: bench.test(checkpoint=bench.folder / "odd.ckpt"))
    if expectation is SUCCESS:
        assert 0 <= figures["IAP"] <= 1


def shortened(bench: Bench, path: Path) -> None:
    whole = bench.checkpoint.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


NOT_LOADED = r"^\S*odd\.ckpt is damaged, is no checkpoint, or holds more than weights and plain data, and was not"
FILE_ROWS = [
    ("cut in half", shortened, NOT_LOADED),
    ("of no bytes", lambda _, path: path.touch(), NOT_LOADED),
    ("of text", lambda _, path: path.write_text("weights"), NOT_LOADED),
    ("that is a picture", lambda bench, path: shutil.copy(bench.parts / "test/good/000.png", path), NOT_LOADED),
    ("that is a folder", lambda _, path: path.mkdir(), r"checkpoint \S*odd\.ckpt does not exist or is a folder: give"),
    ("that does not exist", lambda *_: None, r"checkpoint \S*odd\.ckpt does not exist or is a folder: give the path"),
]


@pytest.mark.parametrize(("write", "expectation"), [pytest.param(*row[1:], id=row[0]) for row in FILE_ROWS])
def test_a_checkpoint_file(bench: Bench, write: Callable, expectation: str) -> None:
    write(bench, bench.folder / "odd.ckpt")
    expect(expectation, lambda: bench.test(checkpoint=bench.folder / "odd.ckpt"))
    export = {"export_type": "torch", "ckpt_path": bench.folder / "odd.ckpt"}
    expect(expectation, lambda: bench.engine().export(bench.model, **export))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(textures_module, "user_cache_path", lambda _: tmp_path / "cache")
    return tmp_path / "cache"


def picture(path: Path, *shape: int, dtype: type = np.uint8) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full(shape, 90, dtype))


UNREADABLE = r"^The texture \S*odd\.png cannot be read as a picture: repair or remove it\.$"
TEXTURE_ROWS = [
    ("one file", lambda folder: folder.write_bytes(b"x"), "^textures=.* is a file: name a folder of pictures, 'dtd'"),
    ("no folder", lambda folder: None, "^textures=.* does not exist: name a folder of pictures"),
    ("an empty folder", lambda folder: folder.mkdir(), r"^textures=.* holds no picture \(.*\): name a folder of"),
    ("one pixel", lambda folder: picture(folder / "odd.png", 1, 1, 3), SUCCESS),
    ("16 bits", lambda folder: picture(folder / "odd.png", 20, 20, dtype=np.uint16), SUCCESS),
    ("no bytes", lambda folder: (folder.mkdir(), (folder / "odd.png").touch()), UNREADABLE),
    ("text", lambda folder: (folder.mkdir(), (folder / "odd.png").write_text("bark")), UNREADABLE),
]


@pytest.mark.parametrize(("write", "expectation"), [pytest.param(*row[1:], id=row[0]) for row in TEXTURE_ROWS])
def test_textures(bench: Bench, cache: Path, write: Callable, expectation: str | None) -> None:
    folder = bench.folder / "textures"
    write(folder)
    expect(expectation, lambda: bench.train(textures=folder))
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize("reason", ["full disk", "read-only cache"])
def test_textures_that_cannot_be_cached_train_all_the_same(bench, cache, monkeypatch, caplog, reason) -> None:
    picture(bench.folder / "earlier" / "a.png", 20, 20, 3)
    bench.train(textures=bench.folder / "earlier")
    before = {path: path.read_bytes() for path in cache.rglob("*.npy")}
    picture(bench.folder / "textures" / "a.png", 20, 20, 3)
    real_open = Path.open

    def open_on_a_bad_disk(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.suffix != ".part" or cache not in path.parents:
            return real_open(path, *args, **kwargs)
        if reason == "full disk":
            return real_open(Path("/dev/full"), *args, **kwargs)  # whatever is written there meets a full disk
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", open_on_a_bad_disk)
    with caplog.at_level(logging.WARNING):
        bench.train(textures=bench.folder / "textures")
    message = "No space left on device" if reason == "full disk" else "Read-only file system"
    assert f"({message}) and are decoded into memory at every start: make room, or name a folder" in caplog.text
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("length", [0, 100, 2000])
def test_a_texture_cache_that_was_cut_short_is_made_anew(bench: Bench, cache: Path, length: int) -> None:
    picture(bench.folder / "textures" / "a.png", 20, 20, 3)
    bench.train(textures=bench.folder / "textures")
    [path] = cache.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    bench.train(textures=bench.folder / "textures")
    assert path.read_bytes() == whole


def test_demo_pictures_that_meet_a_full_disk_are_refused_and_leave_nothing(tmp_path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    refusal = r"DemoSurfaces cannot write its pictures to .* \(No space left on device\): pass root="
    expect(refusal, DemoSurfaces(root=tmp_path).setup)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
