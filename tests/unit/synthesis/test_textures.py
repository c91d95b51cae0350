# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly sources come from a folder, once decoded, or from nowhere but the package."""

import cv2
import numpy as np
import pytest
import torch

from destseg_anomalib.synthesis import textures as textures_module
from destseg_anomalib.synthesis.textures import TextureBank, texture_bank


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(textures_module, "user_cache_path", lambda _: tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Three pictures of one colour each, in a folder with a sub-folder whose name is not ASCII."""
    root = tmp_path / "textures"
    (root / "Schräg").mkdir(parents=True)
    for name, bgr in (("a.png", (255, 0, 0)), ("b.jpg", (0, 255, 0)), ("Schräg/c.bmp", (0, 0, 255))):
        _, data = cv2.imencode(name[-4:], np.full((30, 50, 3), bgr, dtype=np.uint8))
        (root / name).write_bytes(data.tobytes())
    (root / "notes.txt").write_text("not a picture")
    return root


def test_a_folder_is_searched_with_its_sub_folders_and_read_as_rgb(folder) -> None:
    bank = texture_bank(folder, (16, 24))
    assert bank.textures.shape == (3, 3, 16, 24)
    assert bank.textures.dtype == torch.uint8
    colours = {tuple(round(v / 255) for v in t.float().mean(dim=(1, 2)).tolist()) for t in bank.textures}
    assert colours == {(0, 0, 1), (0, 1, 0), (1, 0, 0)}


def test_a_second_start_decodes_nothing_and_a_changed_folder_decodes_again(folder, monkeypatch, tmp_path) -> None:
    first = texture_bank(folder, (8, 8)).textures.clone()
    with monkeypatch.context() as patch:
        patch.setattr(textures_module, "_read", lambda *_: pytest.fail("decoded twice"))
        assert torch.equal(texture_bank(folder, (8, 8)).textures, first)
    (folder / "a.png").unlink()
    assert len(texture_bank(folder, (8, 8))) == 2
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_sampling_is_with_replacement_in_the_unit_interval_and_from_the_generator(folder) -> None:
    bank = texture_bank(folder, (8, 8))
    first = bank.sample(20, torch.Generator().manual_seed(1))
    assert first.shape == (20, 3, 8, 8)
    assert first.dtype == torch.float32
    assert first.max() == 1
    assert torch.equal(first, bank.sample(20, torch.Generator().manual_seed(1)))


def test_without_a_folder_textures_are_built_in(tmp_path) -> None:
    bank = texture_bank(None, (32, 32))
    assert len(bank) > 50
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_does_not_exist_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"textures=.*nowhere does not exist: name a folder"):
        texture_bank(tmp_path / "nowhere", (8, 8))


def test_a_file_in_place_of_a_folder_is_named(folder) -> None:
    with pytest.raises(FileNotFoundError, match=r"textures=.*a\.png is a file: name a folder"):
        texture_bank(folder / "a.png", (8, 8))


def test_a_folder_without_pictures_is_named(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"textures=.*empty holds no picture"):
        texture_bank(tmp_path / "empty", (8, 8))


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_texture_that_cannot_be_read_is_named_and_nothing_is_left_behind(folder, content, tmp_path) -> None:
    (folder / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"texture .*broken\.png cannot be read"):
        texture_bank(folder, (8, 8))
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_dtd_that_cannot_be_fetched_is_said_to_be_so(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        msg = "no route to host"
        raise OSError(msg)

    monkeypatch.setattr(textures_module, "download_and_extract", refuse)
    with pytest.raises(ConnectionError, match=r"textures='dtd' could not be fetched.*no route to host.*null"):
        texture_bank("dtd", (8, 8))


def test_a_bank_is_as_long_as_its_textures() -> None:
    assert len(TextureBank(torch.zeros(5, 3, 4, 4, dtype=torch.uint8))) == 5
