# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The papers' reduction of images and ground-truth masks."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.pre_processing.utils._transform_registry import TRANSFORM_REGISTRY
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms


class RoundedBilinearResize(v2.Resize):
    """Resize images by antialiased bilinear interpolation, and masks likewise with a threshold at one half.

    torchvision's `Resize` reduces every mask by nearest neighbour, which lets a defect's area depend on where its
    pixels happen to fall. The papers reduce masks like images and keep a pixel where at least half of its area is
    defective (DeSTSeg, Sec. 4.1). Antialiasing is not optional here: it is on in training, in evaluation and in an
    exported model, where it is written as two matrix products that every runtime computes alike.

    anomalib finds a `Resize` in a model's pre-processor and applies it in its datasets, so masks are reduced from
    their original size. The pre-processor meets the batch again, which is returned as it is.

    Args:
        size: Height and width of the result in pixels.

    Raises:
        ValueError: If `size` is not two positive integers.

    Example:
        >>> mask = tv_tensors.Mask(torch.ones(1, 3, 4, dtype=torch.uint8))
        >>> RoundedBilinearResize((2, 2))(mask).shape
        torch.Size([1, 2, 2])
    """

    def __init__(self, size: Sequence[int]) -> None:
        if isinstance(size, int) or len(size) != 2 or min(size) < 1:
            msg = f"RoundedBilinearResize needs a height and a width in pixels, got size={size!r}."
            raise ValueError(msg)
        super().__init__(tuple(map(int, size)), antialias=True)  # plain numbers, which a checkpoint can hold

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401  torchvision's own signature
        """Resize an image, or a mask; what has the size already is returned untouched.

        Args:
            inpt: Image (..., C, H, W) of any dtype, or a `tv_tensors.Mask` (..., H, W), binary, bool or integer.
            params: Empty; the transform has no randomness.

        Returns:
            The same type and dtype at the new size.
        """
        del params
        size = tuple(self.size)
        if isinstance(inpt, torch.Tensor) and torch.compiler.is_exporting():
            # Whether the size fits already is not known while a graph with free height and width is traced.
            return _resize_by_products(inpt, size)
        if tuple(transforms.get_size(inpt)) == size:
            return inpt
        if isinstance(inpt, tv_tensors.Mask):
            return _resize_mask(inpt, size)
        # Not `self.antialias`: anomalib switches that off in the copy of the transform that it exports.
        return transforms.resize(inpt, list(size), interpolation=self.interpolation, antialias=True)


def _resize_mask(mask: tv_tensors.Mask, size: tuple[int, ...]) -> tv_tensors.Mask:
    """Reduce a binary mask; a pixel is kept where at least half of it was set."""
    # Integer interpolation rounds on the way, so the arithmetic is float32 (0 pixels differ from the official code).
    values = (mask.as_subclass(torch.Tensor) != 0).float()
    planes = values.reshape(-1, 1, *values.shape[-2:])
    reduced = functional.interpolate(planes, size=size, mode="bilinear", antialias=True) >= 0.5
    return tv_tensors.wrap(reduced.reshape(*values.shape[:-2], *size).to(mask.dtype), like=mask)


def _resize_by_products(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Antialiased bilinear resize as `rows @ image @ columns`, in operators that export everywhere."""
    rows = _triangle_weights(image.shape[-2], size[0], image)
    columns = _triangle_weights(image.shape[-1], size[1], image)
    # The planes are one axis meanwhile: without that, OpenVINO 2026.4 refuses to load the quantised model in bfloat16
    # (a scale of 3 channels meets a product of as many columns as the image).
    planes = image.reshape(-1, *image.shape[-2:])
    return (rows @ planes @ columns.T).reshape(*image.shape[:-2], *size)


def _triangle_weights(length: int, out: int, like: torch.Tensor) -> torch.Tensor:
    """Weights (out, length) of a triangle filter as wide as the reduction, each row summing to 1.

    Distances are integers, in units of 1 / (2 out) input pixels: OpenVINO computes in bfloat16 or float16 unless told
    otherwise, where positions along an image are no longer distinct.
    """
    centres = (2 * torch.arange(out, device=like.device) + 1) * length
    positions = (2 * torch.arange(length, device=like.device) + 1) * out
    reach = 2 * (max(length, out) if isinstance(length, int) else torch.sym_max(length, out))
    weights = (reach - (positions - centres[:, None]).abs()).clamp(min=0).to(like.dtype) / reach
    return weights / weights.sum(dim=1, keepdim=True)


# anomalib writes only transforms of its registry into a checkpoint, and silently drops all others.
TRANSFORM_REGISTRY.register(RoundedBilinearResize, "destseg_anomalib.RoundedBilinearResize")
