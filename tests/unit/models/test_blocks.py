# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The convolution that spares work on constant channels gives what a plain one gives."""

import pytest
import torch
from torch.nn import functional

from destseg_anomalib.models.blocks import AtrousSpatialPyramidPooling, PartlyPooledConv


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (3, 3), (4, 7), (16, 12)])
def test_a_partly_constant_convolution_equals_a_plain_one_and_so_do_its_gradients(size) -> None:
    conv = PartlyPooledConv(3, 5, 4).double()
    constant = torch.rand(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    varying = torch.rand(2, 5, *size, dtype=torch.float64, requires_grad=True)
    ours = conv(constant, varying)
    plain = functional.conv2d(torch.cat([constant.expand(-1, -1, *size), varying], dim=1), conv.weight, padding=1)
    assert torch.allclose(ours, plain, rtol=1e-12)
    weights = torch.rand_like(ours)
    inputs = (conv.weight, constant, varying)
    for a, b in zip(*(torch.autograd.grad(out, inputs, weights) for out in (ours, plain)), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_the_pyramid_keeps_the_names_and_shapes_of_its_weights() -> None:
    shapes = {name: tuple(value.shape) for name, value in AtrousSpatialPyramidPooling(8).named_parameters()}
    assert shapes["fuse.conv.weight"] == (8, 32, 3, 3)
    assert {name for name in shapes if "fuse" in name} == {"fuse.conv.weight", "fuse.norm.weight", "fuse.norm.bias"}
