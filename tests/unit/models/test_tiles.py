# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Maps of large pictures that are put together from tiles."""

from itertools import pairwise

import pytest
import torch
from anomalib.data.utils.tiler import Tiler
from hypothesis import given, settings
from hypothesis import strategies as st

from destseg_anomalib.models.destseg.torch_model import DeSTSegModel
from destseg_anomalib.models.tiles import LARGEST, OVERLAP, SHARED, Tiling, _fewest, square, starts, tiled

SIZES = st.integers(1, 90)


@settings(deadline=None)
@given(height=SIZES, width=SIZES, side=st.integers(8, 40), count=st.integers(1, 3))
def test_what_no_tile_says_otherwise_is_said_by_the_whole(height: int, width: int, side: int, count: int) -> None:
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))
    torch.testing.assert_close(
        tiled(lambda tiles: tiles[:, :1], images, square(side)), images[:, :1], rtol=1e-6, atol=1e-6
    )
    constant = tiled(lambda tiles: torch.full_like(tiles[:, :1], 0.3), images, square(side))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3), rtol=1e-6, atol=0)


@given(length=st.integers(1, 500), side=st.integers(1, 500))
def test_tiles_reach_from_end_to_end_and_overlap_by_an_eighth(length: int, side: int) -> None:
    stride = square(side).stride[0]
    side = min(side, length)
    begins = starts(length, side, stride)
    assert begins[0] == 0
    assert begins[-1] + side == length
    assert all(0 < b - a <= max(side * (1 - OVERLAP), 1) for a, b in pairwise(begins))


@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_very_large_pictures_are_cut_into_the_fewest_tiles(height: int, width: int) -> None:
    sides, strides = _fewest(height, width)
    for length, side, stride in zip((height, width), sides, strides, strict=True):
        begins = starts(length, min(side, length), stride)
        assert side <= LARGEST
        assert len(begins) == 1 or (len(begins) - 1) * (LARGEST - SHARED) + SHARED < length
        assert all(b - a <= side - SHARED for a, b in pairwise(begins))


@pytest.mark.parametrize("side", [64, 128])
def test_a_map_that_every_tile_has_wrong_at_its_border_has_no_step_there(side: int) -> None:
    def wrong(tiles: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros_like(tiles[:, :1])
        maps[..., 0, :] = maps[..., -1, :] = maps[..., 0] = maps[..., -1] = 1
        return maps

    inner = tiled(wrong, torch.zeros(1, 3, 300, 300), square(side))[..., 1:-1, 1:-1]
    assert inner.max() < 128 / side**2  # of 1, where one tile ends and others go on


def test_the_map_of_a_periodic_texture_has_no_step_at_the_borders_of_tiles() -> None:
    model = DeSTSegModel("resnet18", pre_trained=False, tile=128).eval()
    model.segmentation.head[-1].weight.data *= 100  # an untrained map is nearly constant
    wave = torch.sin(torch.arange(320) * 2 * torch.pi / 32) / 4
    whole = (0.5 + wave + wave[:, None]).expand(1, 3, -1, -1)
    with torch.no_grad():
        found = model(whole).anomaly_map[0, 0]
    begins = starts(320, 128, 112)
    borders = [*begins[1:], *(begin + 128 for begin in begins[:-1])]
    for along in (found, found.T):
        bends = (along[:, 2:] - 2 * along[:, 1:-1] + along[:, :-2]).abs()  # of a step, its height
        at_borders = bends[:, [border - 1 for border in borders]]
        assert at_borders.max() < 0.02 * (found.max() - found.min())
        assert at_borders.max() < 0.3 * bends.max()  # so it is the texture's
    images = whole[..., :128, :]  # one row of tiles
    with torch.no_grad():
        found = model(images).anomaly_map
        first, second, third = (model(images[..., start : start + 128]).anomaly_map for start in (0, 96, 192))
    largest = 0.01 * (found.max() - found.min())
    # Where a tile begins or ends, its neighbour says nearly all: the tile's own end may be far from that.
    ends = {96: first[..., 96], 127: second[..., 31], 192: second[..., 96], 223: third[..., 31]}
    for column, neighbour in ends.items():
        assert (found[..., column] - neighbour).abs().max() < largest
    assert (second[..., 0] - first[..., 96]).abs().max() > 10 * largest


def sizes_seen(images: torch.Tensor, tiling: Tiling | None) -> list[tuple[int, ...]]:
    seen = []
    found = tiled(lambda tiles: seen.append((len(tiles), *tiles.shape[-2:])) or tiles[:, :1], images, tiling)
    torch.testing.assert_close(found, images[:, :1], rtol=1e-6, atol=1e-6)
    return seen


def test_no_more_pixels_go_at_once_than_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("destseg_anomalib.models.tiles.AT_ONCE", 1024)
    monkeypatch.setattr("destseg_anomalib.models.tiles.LARGEST", 24)
    monkeypatch.setattr("destseg_anomalib.models.tiles.SHARED", 4)
    images = torch.rand(5, 3, 16, 32)
    assert sizes_seen(images[:2], None) == [(2, 16, 32)]
    assert sizes_seen(images, None) == [(2, 16, 32), (2, 16, 32), (1, 16, 32)]
    assert sizes_seen(images, square(16)) == [(4, 16, 16), (1, 16, 16)] * 3
    assert sizes_seen(images[:1], square(16)) == [(3, 16, 16)]
    large = torch.rand(1, 3, 40, 40)
    assert sizes_seen(large, None) == [(2, 22, 22)] * 2
    assert sizes_seen(torch.rand(1, 3, 100, 12), None) == [(3, 24, 12), (2, 24, 12)]
    assert sizes_seen(large, square(40)) == [(1, 40, 40)]  # who asks for one pass has it


def test_a_model_judges_tiles_as_it_judges_pictures_of_their_size() -> None:
    model = DeSTSegModel("resnet18", pre_trained=False, tile=64).eval()
    images = torch.rand(1, 3, 64, 112)
    with torch.no_grad():
        found = model(images).anomaly_map
        left, right = model(images[..., :64]).anomaly_map, model(images[..., 48:]).anomaly_map
    torch.testing.assert_close(found[..., :48], left[..., :48], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[..., 64:], right[..., 16:], rtol=0, atol=1e-5)
    between = found[..., 48:64]
    assert (between >= torch.minimum(left[..., 48:], right[..., :16]) - 1e-5).all()
    assert (between <= torch.maximum(left[..., 48:], right[..., :16]) + 1e-5).all()
    assert model(images[..., :40, :40]).anomaly_map.shape == (1, 1, 40, 40)


def test_the_tiler_of_anomalibs_callback_cuts_as_it_says() -> None:
    model, images = DeSTSegModel("resnet18", pre_trained=False).eval(), torch.rand(1, 3, 64, 112)
    assert model.tiler is None
    with torch.no_grad():
        model.tiler = Tiler((64, 64), (56, 56))
        as_told = model(images).anomaly_map
        model.tiling = square(64)
        assert torch.equal(model(images).anomaly_map, as_told)
        model.tiler = Tiler((32, 64), (32, 48))
        assert model.tiling == Tiling((32, 64), (32, 48))
        assert not torch.equal(model(images).anomaly_map, as_told)
    with pytest.raises(ValueError, match=r"^remove_border_count=4 would leave the border of each image unjudged"):
        model.tiler = Tiler(64, 64, remove_border_count=4)


@pytest.mark.parametrize("tile", [None, 64])
def test_regions_are_those_of_the_whole_picture_in_every_tile(tile: int | None) -> None:
    model = DeSTSegModel("resnet18", pre_trained=False, tile=tile, regions=(64, 112)).eval()
    model.regions.inside[20:, 70:] = False
    images = torch.rand(1, 3, 64, 112)
    other = torch.where(model.regions.inside, images, 1 - images)
    with torch.no_grad():
        one, two = model(images), model(other)
    assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert torch.equal(one.pred_score, two.pred_score)
    assert not one.anomaly_map[..., ~model.regions.inside].any()
    inside = model.regions.inside.clone()
    inside[0, 0] = False  # which must matter
    model.regions.inside.copy_(inside)
    with torch.no_grad():
        assert not torch.equal(model(images).anomaly_map[..., 1:40, 1:40], one.anomaly_map[..., 1:40, 1:40])
