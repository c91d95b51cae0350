# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What is in a checkpoint beside weights: plain data alone, and on which images the model was trained.

A checkpoint is read without running code from it. So whatever cannot be read that way must not be written either, or
the file would be refused ever after.
"""

import datetime as dt
import hashlib
import logging
import operator
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule

logger = logging.getLogger(__name__)

_DATES = (dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone)
PLAIN_TYPES: tuple[Any, ...] = (*_DATES, *(getattr(np.dtypes, name) for name in np.dtypes.__all__))
"""Types that hold data and do nothing when they are read, beside those that PyTorch and anomalib allow."""

_TENSORS = (torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device)
_SCALARS: tuple[Any, ...] = (bool, int, float, complex, str, bytes)
_COLLECTIONS: tuple[Any, ...] = (list, tuple, set)
_WRITTEN_BY_OTHERS = {"state_dict", "optimizer_states", "lr_schedulers", "loops"}  # plain already, and large


def make_plain(checkpoint: dict[str, Any]) -> None:
    """Bring the contents of a checkpoint to types that can be read back, and leave out what has no such type.

    NumPy's numbers become Python's, paths become strings, and enumerations their values.

    Args:
        checkpoint: A checkpoint of Lightning's, changed in place.
    """
    for section in checkpoint.keys() - _WRITTEN_BY_OTHERS:
        # What is left out is a whole section, but of these two a single entry.
        if section in {"hyper_parameters", "callbacks"}:
            _keep_plain(checkpoint[section])
        else:
            _keep_plain(checkpoint, [section])


def _keep_plain(entries: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Make entries plain, or take them out with a warning."""
    for name in list(entries if names is None else names):
        try:
            entries[name] = plain(entries[name])
        except TypeError as error:
            del entries[name]
            logger.warning(
                "%s is left out of the checkpoint, since %s could not be read back without running code: give it "
                "numbers, texts, dates, tensors or collections of these.",
                name,
                error,
            )


def plain(value: Any) -> Any:  # noqa: ANN401
    """Bring a value to types that can be read from a checkpoint.

    Args:
        value: Anything.

    Returns:
        The same of plain types.

    Raises:
        TypeError: With the name of the type, if something in it has no plain form.

    Example:
        >>> plain({"size": (np.int64(3), Path("a"))})
        {'size': (3, 'a')}
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PurePath):
        value = str(value)
    if value is None or type(value) in (*_TENSORS, *_DATES):
        return value
    if isinstance(value, torch.Tensor):
        return value.as_subclass(torch.Tensor)
    if type(value) is np.ndarray and not value.dtype.hasobject:
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    for kind in (*_COLLECTIONS, *_SCALARS):  # and what derives from them, whose class would have to be imported
        if isinstance(value, kind):
            return kind(map(plain, value)) if kind in _COLLECTIONS else kind(value)
    raise TypeError(type(value).__qualname__)


def same(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Compare values as a checkpoint keeps them, where tuples, lists and arrays of equal numbers are equal.

    Example:
        >>> same((np.int64(3), 4), [3, 4]), same("a", Path("a")), same(3, None)
        (True, True, False)
    """
    values = [plain(value) for value in (one, other)]
    values = [value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value for value in values]
    return bool(operator.eq(*(list(value) if isinstance(value, list | tuple) else value for value in values)))


def image_digests(datamodule: AnomalibDataModule, *sets: str) -> torch.Tensor:
    """Make a number of each image of some sets, of its name and the size of its file.

    A name is the path below the root of the data module: a data set may be moved as a whole, and images of equal names
    in two of its folders are two images. The size tells sets apart that number their images alike.

    Args:
        datamodule: Data that has been set up.
        *sets: Which of `train`, `val` and `test`; one that it does not have has no image.

    Returns:
        Sorted int64 numbers, one for each different image.
    """
    tables = {name: getattr(datamodule, f"{name}_data", None) for name in ("train", "val", "test")}
    paths = {
        name: [Path(path).absolute() for path in table.samples.image_path] for name, table in tables.items() if table
    }
    root = Path(getattr(datamodule, "root", None) or os.path.commonpath([*chain(*paths.values())])).absolute()
    images = {path for name in sets for path in paths.get(name, ())}
    names = {f"{os.path.relpath(path, root)} {path.stat().st_size if path.is_file() else 0}" for path in images}
    digests = (hashlib.sha256(name.encode()).digest()[:8] for name in names)
    return torch.tensor(sorted(int.from_bytes(digest, "big", signed=True) for digest in digests), dtype=torch.int64)
