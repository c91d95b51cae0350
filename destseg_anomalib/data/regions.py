# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Reading of a picture that says where to look."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

WHITE = 128  # of 255: from here on a pixel is one to look at
ASPECT = 0.01  # share by which width over height may differ: half a pixel of a small picture


def read_regions(path: str | Path, size: Sequence[int], images: Iterable[str] = ()) -> torch.Tensor:
    """Read a picture that is white where to look.

    Args:
        path: The picture, of any size.
        size: Height and width in pixels that images are resized to.
        images: Files of images that it is meant for; those that do not exist are passed over.

    Returns:
        Boolean (H, W) of that size: a pixel is inside if all that an antialiased resize shows in it is.

    Raises:
        ValueError: If the picture cannot be read, has another shape than an image, or leaves nothing to look at.
    """
    try:
        with Image.open(path) as picture:
            white = np.asarray(picture.convert("L")) >= WHITE
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"regions={str(path)!r} cannot be read ({reason}): give a picture that is white where to look."
        raise ValueError(msg) from error
    height, width = white.shape
    for image in images:
        if not Path(image).is_file():
            continue
        with Image.open(image) as header:
            across, down = header.size
        if abs(width * down / (height * across) - 1) > ASPECT:
            msg = (
                f"regions={str(path)!r} is {width} pixels wide and {height} high, and the image {image} {across} and "
                f"{down}, which is another shape: draw the regions on one of the images, all of them of one shape."
            )
            raise ValueError(msg)
    outside = torch.from_numpy(~white).float()[None]
    inside: torch.Tensor = functional.resize(outside, list(size), antialias=True)[0] == 0
    if not inside.any():
        what = "is black all over" if not white.any() else f"leaves no whole pixel at {size[0]} x {size[1]}"
        msg = f"regions={str(path)!r} {what}, so there is nothing to look at: paint white where to look."
        raise ValueError(msg)
    return inside
