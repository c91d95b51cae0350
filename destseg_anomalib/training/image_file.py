# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Decoded images in a file, where there are too many for memory."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


class ImageFile:
    """Images of one shape by their index, as a dictionary has them, in a file that vanishes with its last user.

    An image that is asked for is mapped into memory for as long as it is in use: what a crop of it does not touch is
    not read, and nothing piles up. Images are written, not mapped: a full disk is then an error, and not the end of the
    process.

    Args:
        count: How many images.
        shape: Of each.
        folder: Where; made if missing.

    Raises:
        OSError: If no file can be made there.
    """

    def __init__(self, count: int, shape: Sequence[int], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.shape = tuple(shape)
        self._bytes = int(np.prod(self.shape))
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when the last reference goes
        self._file.truncate(count * self._bytes)  # takes no room before there is something in it
        self._there: set[int] = set()

    def __contains__(self, index: int) -> bool:
        return index in self._there

    def __getitem__(self, index: int) -> torch.Tensor:
        """Map an image, uint8; whoever writes into the tensor does not write into the file."""
        image = np.memmap(self._file, np.uint8, "c", index * self._bytes, self.shape)
        return torch.from_numpy(image)

    def __setitem__(self, index: int, image: torch.Tensor) -> None:
        """Keep an image, unless it has another shape than the others."""
        if tuple(image.shape) != self.shape:
            return
        content = memoryview(image.contiguous().numpy().tobytes())
        written = 0
        while written < self._bytes:
            written += os.pwrite(self._file.fileno(), content[written:], index * self._bytes + written)
        self._there.add(index)
