# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What is written into a checkpoint can be read from it without running code, and names of images tell sets apart."""

import datetime as dt
import io
from collections import OrderedDict, namedtuple
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.utils.serialization import anomalib_safe_globals
from torchvision.tv_tensors import Mask

from destseg_anomalib.training.contents import PLAIN_TYPES, image_digests, make_plain, plain, same


class Colour(str, Enum):
    RED = "red"


class Stateful:
    """A class of a user's, which only its own code could make again."""


Pair = namedtuple("Pair", "a b")
NOW = dt.datetime(2026, 11, 26, 12, 30, tzinfo=dt.timezone.utc)
VALUES = [
    (np.int64(3), 3),
    (np.float32(0.5), 0.5),
    ((np.int64(64), np.int64(32)), (64, 32)),
    ([np.bool_(True)], [True]),
    (np.datetime64("2026-11-26"), dt.date(2026, 11, 26)),
    (Path("a/b"), "a/b"),
    (Colour.RED, "red"),
    (NOW, NOW),
    (dt.timedelta(seconds=2), dt.timedelta(seconds=2)),
    (OrderedDict(a={"b": {1, 2}}), {"a": {"b": {1, 2}}}),
    (Pair(1, None), (1, None)),
    (b"bytes", b"bytes"),
]


def written_and_read(value: object) -> object:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    with anomalib_safe_globals(extra=PLAIN_TYPES):
        return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: type(value).__name__)
def test_plain_values_are_equal_and_can_be_read(value, expected) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)
    assert written_and_read(plain(value)) == expected


@pytest.mark.parametrize("array", [np.arange(3), np.zeros(2, dtype=bool), np.array(["a"]), np.float16([1.5])])
def test_arrays_stay_arrays(array) -> None:
    assert np.array_equal(written_and_read(plain({"a": array}))["a"], array)


def test_a_tensor_of_a_kind_of_its_own_becomes_a_tensor() -> None:
    assert type(written_and_read(plain(Mask(torch.ones(2, 2))))) is torch.Tensor


@pytest.mark.parametrize("value", [Stateful(), [Stateful()], lambda: 0, np.array([Stateful()]), np.ma.array([1])])
def test_what_only_code_could_make_again_is_named(value) -> None:
    with pytest.raises(TypeError, match=r"Stateful|function|ndarray|MaskedArray"):
        plain(value)


def test_an_entry_that_cannot_be_read_is_left_out_alone_and_named(caplog) -> None:
    checkpoint = {
        "state_dict": {"weight": torch.ones(1)},
        "callbacks": {"Clock": {"when": NOW}, "Odd": {"of": Stateful()}},
        "hyper_parameters": {"image_size": (np.int64(3), 4)},
        "notes_of_a_user": Stateful(),
    }
    make_plain(checkpoint)
    assert checkpoint["callbacks"] == {"Clock": {"when": NOW}}
    assert checkpoint["hyper_parameters"] == {"image_size": (3, 4)}
    assert "notes_of_a_user" not in checkpoint
    assert "Odd is left out of the checkpoint, since Stateful could not be read back" in caplog.text
    assert written_and_read(checkpoint).keys() == checkpoint.keys()


def digests(folder: Path, *, rooted: bool, size: int = 1) -> list[torch.Tensor]:
    """Digests of two training images and a test image of the same name as one of them."""
    names = {"train": ["train/line/good/0.png", "train/line/good/1.png"], "test": ["test/line/good/0.png"]}
    for path in (folder / name for of_set in names.values() for name in of_set):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    tables = {
        f"{which}_data": SimpleNamespace(samples=pd.DataFrame({"image_path": [str(folder / name) for name in of_set]}))
        for which, of_set in names.items()
    }
    module = SimpleNamespace(root=folder if rooted else None, **tables)
    return [image_digests(module, which) for which in names]


@pytest.mark.parametrize("rooted", [True, False])
def test_images_are_told_apart_by_place_and_size_and_not_by_where_the_set_lies(rooted, tmp_path) -> None:
    train, test = digests(tmp_path / "here", rooted=rooted)
    assert len(train) == 2
    assert not torch.isin(train, test).any()
    moved, _ = digests(tmp_path / "there/deeper", rooted=rooted)
    assert torch.equal(train, moved)
    other, _ = digests(tmp_path / "other", rooted=rooted, size=2)
    assert not torch.isin(other, train).any()


def test_a_set_that_is_not_there_has_no_image() -> None:
    train = SimpleNamespace(samples=pd.DataFrame({"image_path": ["/a/0.png", "/a/1.png"]}))
    assert len(image_digests(SimpleNamespace(name="parts", train_data=train), "val", "test")) == 0


@pytest.mark.parametrize("other", [[64, 32], np.array([64, 32]), torch.tensor([64, 32]), (np.int64(64), 32)])
def test_equal_numbers_are_the_same_in_any_collection(other) -> None:
    assert same((64, 32), other)
    assert not same((64, 33), other)
    assert not same(None, other)
