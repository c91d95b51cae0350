# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Masks are reduced as the papers do, images as torchvision does, in anomalib, in checkpoints and in exports alike."""

import numpy as np
import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from destseg_anomalib.transforms import RoundedBilinearResize


def test_masks_equal_the_official_ones_to_the_last_pixel(shared) -> None:
    fixture = np.load(shared / "fixtures" / "rounded_bilinear_reference.npz")
    resize = RoundedBilinearResize((256, 256))
    for index, shape in enumerate(fixture["shapes"]):
        height, width = (int(n) for n in shape)
        mask = np.unpackbits(fixture[f"mask{index}"], count=height * width).reshape(height, width)
        expected = np.unpackbits(fixture[f"out{index}"], count=256 * 256).reshape(256, 256)
        assert (resize(Mask(torch.from_numpy(mask))).numpy() != expected).sum() == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("lead", [(), (1,), (4,), (4, 1)])
def test_type_dtype_and_leading_shape_of_a_mask_are_kept(dtype, lead) -> None:
    reduced = RoundedBilinearResize((8, 6))(Mask(torch.ones(*lead, 20, 30).to(dtype)))
    assert type(reduced) is Mask
    assert reduced.dtype == dtype
    assert reduced.shape == (*lead, 8, 6)
    assert (reduced == 1).all()


def test_the_share_of_the_area_decides_and_not_the_nearest_pixel() -> None:
    rows = torch.tensor([0, 1, 1, 1]).bool()[:, None].expand(4, 4)
    assert RoundedBilinearResize((1, 1))(Mask(rows)).item() is True
    assert RoundedBilinearResize((1, 1))(Mask(~rows)).item() is False
    assert v2.Resize((1, 1))(Mask(rows)).item() is False


def test_what_has_the_size_already_is_returned_itself() -> None:
    resize = RoundedBilinearResize((8, 8))
    image, mask = Image(torch.rand(3, 8, 8)), Mask(torch.ones(8, 8, dtype=torch.bool))
    out_image, out_mask = resize(image, mask)
    assert out_image.data_ptr() == image.data_ptr()
    assert out_mask.data_ptr() == mask.data_ptr()


def test_images_are_resized_as_torchvision_does_with_antialiasing() -> None:
    image = Image(torch.rand(3, 50, 70))
    assert torch.equal(RoundedBilinearResize((16, 16))(image), v2.Resize((16, 16), antialias=True)(image))


def test_switching_antialiasing_off_from_outside_changes_nothing() -> None:
    # anomalib does this to the copy of the transform that it exports.
    image = torch.rand(1, 3, 90, 90)
    resize = RoundedBilinearResize((16, 16))
    expected = resize(image)
    assert torch.equal(PreProcessor(resize)(image), expected)
    assert not torch.allclose(PreProcessor(v2.Resize((16, 16), antialias=True))(image), expected, atol=0.01)


def exported_resize(dtype: torch.dtype) -> torch.nn.Module:
    """The graph of a resize to (16, 24), exported with free height and width."""

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resize = RoundedBilinearResize((16, 24))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.resize(image)

    dims = {2: torch.export.Dim("height", min=4, max=4096), 3: torch.export.Dim("width", min=4, max=4096)}
    image = torch.rand(2, 3, 40, 60, dtype=dtype)
    program = torch.export.export(Wrapped(), (image,), dynamic_shapes=(dims,))
    assert not any("upsample" in str(node.target) for node in program.graph.nodes)
    return program.module()


@pytest.mark.parametrize("size", [(90, 50), (16, 24), (7, 100)])
def test_the_exported_resize_computes_the_same_as_the_eager_one_at_any_size(size) -> None:
    image = torch.rand(2, 3, *size)
    actual = exported_resize(torch.float32)(image)
    assert torch.allclose(actual, RoundedBilinearResize((16, 24))(image), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_exported_resize_finds_its_pixels_where_a_runtime_computes_in_half_precision(dtype) -> None:
    # OpenVINO does so by default on processors and GPUs that can. 8 bits do not tell 900 positions apart.
    image = torch.rand(2, 3, 900, 700)
    actual = exported_resize(dtype)(image.to(dtype)).float()
    assert torch.allclose(actual, RoundedBilinearResize((16, 24))(image), atol=torch.finfo(dtype).eps)


def test_the_transform_survives_a_checkpoint() -> None:
    saved = PreProcessor(RoundedBilinearResize((48, 32))).checkpoint_config()
    loaded = PreProcessor(None)
    loaded.load_checkpoint_config(saved)
    assert type(loaded.transform) is RoundedBilinearResize
    assert tuple(loaded.transform.size) == (48, 32)


@pytest.mark.parametrize("size", [256, (256,), (0, 4), (1, 2, 3)])
def test_a_size_that_is_not_a_height_and_a_width_is_refused(size) -> None:
    with pytest.raises(ValueError, match="needs a height and a width"):
        RoundedBilinearResize(size)
