# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import socket
from typing import NoReturn

import numpy as np
import pytest
import torch
from skimage import data

from destseg_anomalib.synthesis import builtin_textures as patterns
from destseg_anomalib.synthesis.builtin_textures import builtin_textures


@pytest.fixture(scope="module")
def textures() -> torch.Tensor:
    return builtin_textures((96, 128))


def test_textures_are_uint8_rgb_of_the_size_asked_for(textures: torch.Tensor) -> None:
    assert textures.dtype == torch.uint8
    assert textures.shape[1:] == (3, 96, 128)
    assert 100 <= len(textures) <= 150
    assert textures.is_contiguous()


def test_the_same_seed_gives_the_same_textures_and_another_seed_others(textures: torch.Tensor) -> None:
    assert torch.equal(textures, builtin_textures((96, 128)))
    assert (textures == builtin_textures((96, 128), seed=1)).flatten(1).all(1).sum() == 0


def test_global_random_states_are_neither_read_nor_moved(textures: torch.Tensor) -> None:
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002 - the global state is what the test is about
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(textures, builtin_textures((96, 128)))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_no_texture_is_blank_and_most_have_strong_contrast(textures: torch.Tensor) -> None:
    contrast = textures.float().mean(1).flatten(1).std(1)
    assert contrast.min() > 1
    assert contrast.median() > 30


def test_textures_range_from_grey_to_saturated(textures: torch.Tensor) -> None:
    chroma = (textures.amax(1).float() - textures.amin(1).float()).flatten(1).mean(1)
    assert (chroma < 25).sum() > 10
    assert (chroma > 80).sum() > 10


def test_textures_range_from_coarse_to_fine(textures: torch.Tensor) -> None:
    grey = textures.float().mean(1, keepdim=True)
    coarse = torch.nn.functional.avg_pool2d(grey, 8).flatten(1).var(1)
    share = coarse / grey.flatten(1).var(1)  # of the variance that lies at scales above 8 pixels
    assert share.quantile(0.1) < 0.25
    assert share.quantile(0.9) > 0.75


def test_no_two_textures_are_alike(textures: torch.Tensor) -> None:
    small = torch.nn.functional.avg_pool2d(textures.float(), 4).flatten(1)
    distance = torch.cdist(small, small) / small.shape[1] ** 0.5
    distance.fill_diagonal_(torch.inf)
    assert distance.min() > 3


def test_the_surfaces_of_the_demo_set_are_not_among_the_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        msg = "a demo surface was read"
        raise AssertionError(msg)

    for surface in ("brick", "grass", "gravel"):
        monkeypatch.setattr(data, surface, refuse)
    builtin_textures((16, 16))


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        msg = "a connection was opened"
        raise AssertionError(msg)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    builtin_textures((16, 16))


@pytest.mark.parametrize("pattern", patterns.PATTERNS, ids=lambda pattern: pattern.__name__)
def test_every_pattern_is_finite_and_varies_on_any_shape(pattern: patterns.Pattern) -> None:
    for height, width in ((64, 64), (40, 100)):
        grid = np.mgrid[:height, :width][::-1].astype(np.float32) / 40
        for seed in range(8):
            field = pattern(grid, np.random.default_rng(seed))
            assert field.shape == (height, width)
            assert np.isfinite(field).all()
            assert np.ptp(field) > 0
