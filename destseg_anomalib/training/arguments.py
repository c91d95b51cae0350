# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Arguments of a model that cannot train, or not together."""

from typing import Any


def check(arguments: Any) -> None:  # noqa: ANN401  a dictionary whose entries are attributes, too
    """Refuse hyper-parameters that cannot train.

    Args:
        arguments: Hyper-parameters of a model.

    Raises:
        ValueError: If a number of steps is below 1, a crop is larger than the images, a tile has no pixel, or images
            that have regions are to be cut or turned.
    """
    for name in ("student_steps", "segmentation_steps"):
        if arguments[name] < 1:
            msg = f"{name}={arguments[name]} must be at least 1; segmentation=False trains the student alone."
            raise ValueError(msg)
    crop, size, regions = arguments.crop_size, tuple(arguments.image_size), arguments.regions
    if crop is not None and not 1 <= crop <= min(size):
        msg = f"crop_size={crop} must lie between 1 and the sides of image_size={size}."
        raise ValueError(msg)
    if arguments.tile is not None and arguments.tile < 1:
        msg = f"tile={arguments.tile} must be at least 1, in pixels, or None to follow the size of the image."
        raise ValueError(msg)
    if crop is not None and regions is not None:
        msg = f"crop_size={crop} cuts parts of images, of which regions={regions!r} says nothing: give one of both."
        raise ValueError(msg)
    if regions is not None and arguments.rotation not in {"auto", "none"}:
        msg = f"rotation={arguments.rotation!r} would turn images under their regions: pass rotation='none'."
        raise ValueError(msg)
