# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a picture must be, so that anomalib reads it as it is meant: told from its header wherever that is enough.

Nothing is read in another way than anomalib's. What it would read wrongly is refused, since the next program in the
line, be it a bundled model or an exported one, would read the same file wrongly again.
"""

from anomalib.data.utils import read_image
from PIL import Image

# Modes in which Pillow keeps grey values beyond 8 bits; its conversion to RGB, which anomalib uses, clips them at 255.
DEEP_MODES = ("I", "F")

ORIENTATION = 0x0112  # in EXIF: how to turn a picture before it is shown; 1 for not at all
PREVIEW = 254, 1  # tag and bit of a page in a TIFF file that repeats another page at a smaller size


class UnusableImageError(ValueError):
    r"""An image or a mask cannot be used; the message is one sentence that names the file.

    Args:
        message: The sentence, or the printed traceback that a loader's worker hands over, which ends in it.

    Example:
        >>> str(UnusableImageError("Caught it in worker 0.\n...\nUnusableImageError: a.png is empty.\n"))
        'a.png is empty.'
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def check_image(path: str) -> tuple[int, int]:
    """Refuse an image whose grey values, position or number anomalib would take for others.

    Args:
        path: The file.

    Returns:
        Width and height in pixels.

    Raises:
        UnusableImageError: If it has grey values of more than 8 bits, colours that use a quarter of the range of their
            16 bits or less, a mark to be shown turned, or further pictures behind the first.
        OSError: If it cannot be opened.
    """
    with Image.open(path) as image:
        check_header(image, "image", path)
        size = image.size
        # Pillow keeps the upper 8 of 16 bits of a colour, and no trace of this but in how it is going to decode.
        halved = any(";16" in str(tile.args) for tile in image.tile)
        if image.mode.startswith(DEEP_MODES):
            msg = (
                f"The image {path} has grey values of more than 8 bits, which anomalib would clip at 255: convert it "
                "to 8 bits."
            )
            raise UnusableImageError(msg)
    if halved and read_image(path).max() < 1 / 4:  # as of a camera with 10, 12 or 14 bits
        msg = (
            f"The image {path} has colours of 16 bits, of which anomalib keeps the upper 8 and the picture leaves the "
            "uppermost empty: convert it to 8 bits."
        )
        raise UnusableImageError(msg)
    return size


def check_header(image: Image.Image, kind: str, path: str) -> None:
    """Refuse a file of an image or a mask that programs show in different ways.

    Args:
        image: The file, opened and not yet decoded.
        kind: What the file is called in the sentence.
        path: Where it is.

    Raises:
        UnusableImageError: If it is marked to be shown turned, or holds several pictures.
    """
    orientation = _orientation(image)
    if orientation in range(2, 9):
        msg = (
            f"The {kind} {path} is marked to be shown turned (EXIF orientation {orientation}), which anomalib does not "
            "heed, but other programs do: store it upright and without the mark, as `mogrify -auto-orient` does."
        )
        raise UnusableImageError(msg)
    pages = _pages(image)
    if pages > 1:
        msg = (
            f"The {kind} {path} holds {pages} pictures, of which anomalib reads the first alone: store each in a file "
            "of its own."
        )
        raise UnusableImageError(msg)


def _orientation(image: Image.Image) -> int:
    # Pillow turns TIFF files itself. Without one of these entries a PNG would be decoded to look for a late one.
    if image.format == "TIFF" or not image.info.keys() & {"exif", "xmp"}:
        return 1
    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _pages(image: Image.Image) -> int:
    """Number of different pictures in a file; a camera's previews beside its photograph are not different ones."""
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if image.format != "TIFF" or pages == 1:
        return pages
    tag, bit = PREVIEW
    previews = 0
    for page in range(1, pages):
        image.seek(page)
        previews += image.tag_v2.get(tag, 0) & bit  # type: ignore[attr-defined]
    image.seek(0)
    return pages - previews
