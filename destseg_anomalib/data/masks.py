# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a ground-truth mask must be, so that what anomalib takes for defects are the defects that were drawn.

anomalib makes a mask grey and takes whatever is not black for defective, here and wherever a mask file is read again.
That is right for two values and for ids of any size. It is wrong where grey values mean something else, and a file of
this kind is refused, in one sentence, rather than read in a way of our own that bundled models would not share.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from anomalib.data.utils import read_mask
from numpy.typing import NDArray
from PIL import Image

from destseg_anomalib.data.images import UnusableImageError, check_header

FEW_LEVELS = 8  # as many values are ids or the edge of a drawn outline, not what blur or compression leaves
BLENDED = 0.4  # share of grey pixels beside another grey: ids below 0.1 on real masks, blur and compression above 0.45
SPECKS = 10  # regions of one pixel in a mask; the real masks at hand have 2 at most
LOSSY = {"JPEG", "MPO"}


def check_mask(path: str, image_path: str, size: tuple[int, int]) -> None:
    """Refuse a mask in which anomalib would see other defects than were drawn.

    Args:
        path: The file of the mask.
        image_path: The file of its image.
        size: Width and height of the image in pixels.

    Raises:
        UnusableImageError: If the mask has another size, fades, hides defects in dark or transparent colours, is
            inverted, or is noise.
        OSError: If it cannot be opened or decoded.
    """
    with Image.open(path) as mask:
        check_header(mask, "mask", path)
        if mask.size != size:
            msg = (
                f"The mask {path} has {_by(mask.size)} pixels, but its image {Path(image_path).name} has {_by(size)}: "
                "store the mask at the size of the image."
            )
            raise UnusableImageError(msg)
        drawn, values = _drawn(mask)
        read = drawn if mask.mode in {"1", "L"} else np.asarray(mask.convert("L")) > 0
        fault = _fault(read, drawn, values, lossy=mask.format in LOSSY)
    if fault:
        msg = f"The mask {path} {fault}."
        raise UnusableImageError(msg)


def check_mask_of_normal(path: str, image_path: str) -> None:
    """Refuse a mask that marks a defect of an image listed as normal, which anomalib would take for empty.

    Args:
        path: The file of the mask, which need not exist.
        image_path: The file of its image.

    Raises:
        UnusableImageError: If it marks anything.
        OSError: If it cannot be decoded.
    """
    if Path(path).is_file() and read_mask(path).any():
        msg = f"The image {image_path} is listed as normal, but its mask {path} marks a defect: correct one of them."
        raise UnusableImageError(msg)


def _drawn(mask: Image.Image) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """What is not black, and can be seen, and all values of a mask (H, W), those of its strongest colour."""
    grey = mask if len(mask.getbands()) == 1 and mask.mode != "P" else mask.convert("RGB")
    values = np.asarray(grey)
    if values.ndim == 3:
        values = values.max(axis=2)
    drawn = values > 0
    if mask.has_transparency_data:
        alpha = np.asarray(mask.convert("RGBA"))[..., 3]
        if alpha.min() != alpha.max():
            drawn = (alpha > 0) & (drawn if drawn.any() else True)  # black on nothing is drawn, too
            values = np.minimum(values, alpha)
    return drawn, values


def _fault(read: NDArray[np.bool_], drawn: NDArray[np.bool_], values: NDArray[Any], *, lossy: bool) -> str | None:
    """Say what is wrong with a mask, from what anomalib reads, what was drawn, and its values, each (H, W)."""
    if read is not drawn and not np.array_equal(read, drawn):
        return (
            "has colours that are nearly black or cannot be seen, which anomalib takes for what they are not: store it "
            "in black and white, without transparency"
        )
    if not read.any():
        return None
    if values.min() > 0 and values.min() != values.max():
        return "has no black pixel, so that the whole picture would count as defective: make all black that is good"
    if _fades(values, lossy=lossy):
        compressed = "from a compression with loss, or " if lossy else ""
        return (
            f"has grey values between black and white, {compressed}as of blur or a photograph, and anomalib takes all "
            "that is not black for defective: store it in black and white, as PNG"
        )
    return _fault_of_shape(read)


def _fault_of_shape(marked: NDArray[np.bool_]) -> str | None:
    border = np.concatenate([marked[0], marked[-1], marked[:, 0], marked[:, -1]])
    share = marked.mean()
    if 0.5 < share < 1 and border.mean() > 0.9:
        return (
            f"marks {share:.0%} of the picture and nearly all of its border as defective, as if white meant good: "
            "invert it, or make it all white where the whole picture is defective"
        )
    # A pixel that is the only one of the nine around it; most masks have none, and need no regions to be labelled.
    pixels = marked.view(np.uint8)
    single = np.count_nonzero(marked & (cv2.boxFilter(pixels, -1, (3, 3), normalize=False, borderType=0) == 1))
    if single > SPECKS and single > (regions := cv2.connectedComponents(pixels, connectivity=8)[0] - 1) // 2:
        return (
            f"has {regions} defects, of which {single} are a single pixel and would count like any other: take the "
            "specks out, or outline defects that were marked by dots"
        )
    return None


def _fades(values: NDArray[Any], *, lossy: bool) -> bool:
    """Whether grey values reach further than the pixel that the edge of a defect runs through, and are no ids."""
    marked, top = values > 0, values.max()
    between = marked & (values < top)
    if not between.any():
        return False
    if not lossy and (len(np.unique(values)) <= FEW_LEVELS or _share_beside_another_grey(values, between) < BLENDED):
        return False
    core = values >= top / 2
    return bool((marked & (cv2.dilate(core.view(np.uint8), np.ones((3, 3), np.uint8)) == 0)).any())


def _share_beside_another_grey(values: NDArray[Any], between: NDArray[np.bool_]) -> float:
    """Share of the pixels in between with a neighbour, above, below or beside, of another value that is not black.

    Ids lie side by side with themselves and with black; a value on the way from black to white does not.
    """
    blended = np.zeros_like(between)
    for axis in (0, 1):
        here, there = (slice(None),) * axis + (slice(1, None),), (slice(None),) * axis + (slice(None, -1),)
        differ = (values[here] != values[there]) & (values[here] > 0) & (values[there] > 0)
        blended[here] |= differ
        blended[there] |= differ
    return float((blended & between).sum() / between.sum())


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
