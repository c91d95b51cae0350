# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoints are accepted: no code is ever loaded from one, and a refusal is one sentence."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from torch import nn

VERSION = version("destseg-anomalib")


def check_file(path: str | Path) -> None:
    """Refuse a file that is no checkpoint, at the cost of reading its table of contents.

    Args:
        path: Where it is.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, is no checkpoint of Lightning's, or would run code.
    """
    if not Path(path).is_file():
        msg = f"The checkpoint {path} does not exist or is a folder: give the path of a .ckpt file."
        raise FileNotFoundError(msg)
    try:
        with anomalib_safe_globals():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # tensors stay on the disk
    except Exception as error:  # zipfile, pickle and torch each raise their own kind
        msg = (
            f"{path} is damaged, is no checkpoint, or holds more than weights and plain data, and was not loaded: give "
            "a .ckpt file that training wrote."
        )
        raise ValueError(msg) from error
    if not (isinstance(checkpoint, dict) and {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys()):
        msg = f"{path} holds no model that Lightning stored: give a .ckpt file that training wrote."
        raise ValueError(msg)


def check_architecture(checkpoint: Mapping[str, Any], model: Any) -> None:  # noqa: ANN401  both models have its attributes
    """Refuse a checkpoint of another model, or of the same one built otherwise.

    Args:
        checkpoint: A checkpoint of Lightning's.
        model: The Lightning model that is to take it, with `architecture`, the names of the arguments they must share.

    Raises:
        ValueError: If one of these is missing in the checkpoint or differs.
    """
    stored, name_of_model = checkpoint.get("hyper_parameters", {}), type(model).__name__
    # Other models have some of these arguments too: whose checkpoint it is comes before how it was built.
    missing = [name for name in model.architecture if name not in stored]
    if missing:
        msg = (
            f"The checkpoint is not one of {name_of_model}, which would have stored {missing[0]!r}: choose its own "
            "model."
        )
        raise ValueError(msg)
    for name in model.architecture:
        if stored[name] != model.hparams[name]:
            msg = (
                f"The checkpoint was trained with {name}={stored[name]!r}, but {name_of_model} was built with "
                f"{name}={model.hparams[name]!r}: pass --model.{name} {stored[name]}."
            )
            raise ValueError(msg)


def check_weights(checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse a checkpoint whose weights are not those of a model, or are no numbers.

    Args:
        checkpoint: A checkpoint of Lightning's.
        model: The Lightning model that is to take its weights.

    Raises:
        ValueError: If weights are missing, unknown or of another shape, or if any is NaN or infinite.
    """
    # Thresholds of the post-processor are NaN until they are known; only the network's own numbers must be finite.
    stored = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith("model.")}
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (stored, wanted)]
    unfit = sorted(name for name in stored.keys() | wanted.keys() if shapes[0].get(name) != shapes[1].get(name))
    if unfit:
        writer = checkpoint.get("training", {}).get("version", "0.1.0")
        msg = (
            f"The checkpoint of destseg-anomalib {writer} holds another network than the {type(model).__name__} of "
            f"destseg-anomalib {VERSION}: {len(unfit)} tensors differ (first: {unfit[0]}); use the version that wrote "
            "it, or train anew."
        )
        raise ValueError(msg)
    broken = [name for name, value in stored.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        msg = (
            f"The checkpoint holds NaN or infinite weights in {len(broken)} of {len(stored)} tensors (first: "
            f"{broken[0]}), since its training diverged or the file is damaged: use an earlier checkpoint."
        )
        raise ValueError(msg)
