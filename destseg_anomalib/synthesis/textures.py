# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly sources: a folder of pictures, the DTD data set, or textures made on the spot; kept decoded as one array."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from anomalib.data.utils import DownloadInfo, download_and_extract
from platformdirs import user_cache_path
from torchvision.datasets.folder import IMG_EXTENSIONS

from .builtin_textures import builtin_textures

logger = logging.getLogger(__name__)

DTD = DownloadInfo(
    name="dtd-r1.0.1.tar.gz",
    url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    hashsum="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
)


class TextureBank:
    """Textures of one size, from which a batch is drawn by a gather.

    Args:
        textures: Textures (N, 3, H, W), uint8, N at least 1, on any device; may be a memory-mapped file.
    """

    def __init__(self, textures: torch.Tensor) -> None:
        self.textures = textures

    def __len__(self) -> int:
        return len(self.textures)

    def sample(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> torch.Tensor:
        """Draw textures with replacement.

        Args:
            count: How many.
            generator: CPU generator to draw from.
            device: Where the result is wanted.

        Returns:
            Textures (count, 3, H, W), float32, in [0, 1].
        """
        chosen = torch.randint(len(self.textures), (count,), generator=generator, dtype=torch.int32)
        # index_select copies whole textures, where an index in brackets would copy pixel by pixel.
        drawn = self.textures.index_select(0, chosen.to(self.textures.device, non_blocking=True))
        return drawn.to(device, non_blocking=True).float().div_(255)


def texture_bank(source: str | Path | None, size: tuple[int, int]) -> TextureBank:
    """Make the bank that a model's `textures` argument names.

    Args:
        source: A folder, searched with its sub-folders; `"dtd"` for the Describable Textures Dataset, which is fetched
            into the cache folder if it is not there; None for procedural textures and the photographs of scikit-image.
        size: Height and width of the textures in pixels.

    Returns:
        The bank. Pictures of a folder are decoded once and kept in the cache folder as an array that all processes of
        the machine share; where that cannot be written, they are decoded into memory, with a warning.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it holds no picture, or one of them cannot be read.
        ConnectionError: If DTD cannot be fetched.
    """
    if source is None:
        return TextureBank(builtin_textures(size))
    folder = _fetch_dtd() if str(source) == "dtd" else Path(source).expanduser()
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        msg = f"textures={folder} {reason}: name a folder of pictures, 'dtd', or null for built-in textures."
        raise FileNotFoundError(msg)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
    if not paths:
        msg = f"textures={folder} holds no picture ({', '.join(IMG_EXTENSIONS)}): name a folder of textures."
        raise ValueError(msg)
    return TextureBank(_decoded(paths, size))


def _fetch_dtd() -> Path:
    root = user_cache_path("destseg_anomalib") / "dtd"
    if not (root / "dtd" / "images").is_dir():
        try:
            root.mkdir(parents=True, exist_ok=True)
            # In a folder of its own each time: an archive that is already there would be unpacked without a look at
            # its hash, and half of one would be taken for the whole.
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root) as aside:
                download_and_extract(Path(aside), DTD)
                try:
                    (Path(aside) / "dtd").rename(root / "dtd")
                except OSError:
                    if not (root / "dtd" / "images").is_dir():  # otherwise another process was faster
                        raise
        except (OSError, ValueError) as error:
            msg = (
                f"textures='dtd' could not be fetched from {DTD.url} ({error}): fetch and unpack it yourself and name "
                "its images folder, or use null for built-in textures."
            )
            raise ConnectionError(msg) from error
    return root / "dtd" / "images"


def _decoded(paths: list[Path], size: tuple[int, int]) -> torch.Tensor:
    """Decode and resize pictures once, into a file that is mapped into memory ever after."""
    shape = (len(paths), 3, *size)
    stamp = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = hashlib.sha256(repr((shape, stamp)).encode()).hexdigest()[:16]
    cache = user_cache_path("destseg_anomalib") / "textures" / f"{key}.npy"
    try:
        textures = _mapped(cache)
        if textures is None:
            logger.info("Decoding %d textures at %dx%d pixels into %s.", len(paths), *size, cache)
            _write_cache(cache, shape, paths, size)
            textures = _mapped(cache)
        return torch.from_numpy(textures)
    except OSError as error:
        logger.warning(
            "Textures cannot be kept in %s (%s) and are decoded into memory at every start: make room, or name a "
            "folder that can be written to with XDG_CACHE_HOME.",
            cache.parent,
            error.strerror or error,
        )
    return torch.from_numpy(np.stack(list(_read_all(paths, size))))


def _mapped(cache: Path) -> np.ndarray | None:
    """Map a cache file into memory; None if it is not there, or was cut short, by a power failure for instance."""
    try:
        # Copy-on-write, since torch has no read-only tensors; nothing is ever written.
        return np.load(cache, mmap_mode="c")
    except (FileNotFoundError, EOFError, ValueError):
        return None


def _write_cache(cache: Path, shape: tuple[int, ...], paths: list[Path], size: tuple[int, int]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_name(f"{cache.stem}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for texture in _read_all(paths, size):
                file.write(texture.tobytes())
        part.replace(cache)  # atomic: another process sees the whole file or none
    finally:
        part.unlink(missing_ok=True)


def _read_all(paths: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        yield from pool.map(lambda path: _read(path, size), paths)


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read one picture as uint8 (3, H, W), RGB."""
    try:
        picture = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    except (OSError, cv2.error):  # a file that may not be read, or is empty, or claims to be enormous
        picture = None
    if picture is None:
        msg = f"The texture {path} cannot be read as a picture: repair or remove it."
        raise ValueError(msg)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
