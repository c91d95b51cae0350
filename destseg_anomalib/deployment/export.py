# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What our models do otherwise than anomalib's when they are exported: files that only infer, and no false alarm."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from destseg_anomalib.deployment.inference import inference_copy

ONNX_VERSION = 18  # of operators


@contextlib.contextmanager
def _warnings_alone(*names: str) -> Iterator[None]:
    """Keep loggers from telling of every node that they optimise."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def export_call() -> Mapping[str, Any] | None:
    """Look up the arguments of the call of `Engine.export` that goes on, if one does.

    `Engine.export` (2.7) makes another model of the same class from the checkpoint and hands nothing on to it. Its
    frame is the one place where what somebody gave and the checkpoint's model meet.

    Returns:
        Its local variables by name, or None.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "export" and frame.f_globals.get("__name__") == "anomalib.engine.engine":
            return frame.f_locals
        frame = frame.f_back
    return None


def run_to_export_to(checkpoint: Path) -> Path | None:
    """Say in which run an exported model belongs, if nobody says where it is to lie.

    Args:
        checkpoint: The file that a model is made from.

    Returns:
        The folder of the run, or None to leave it to the caller: for a checkpoint that lies in none, outside of
        `Engine.export`, or where a folder was given.
    """
    call = export_call()
    weights = checkpoint.resolve().parent
    if call is None or call.get("export_root") is not None or weights.parts[-2:] != ("weights", "lightning"):
        return None
    return weights.parents[1]


class Export:
    """Mixin for an anomalib model, to stand before `AnomalibModule`."""

    model: nn.Module

    run: Path | None = None
    """Folder of the run that the model comes from, where its exported files belong."""

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Write the model in the version of ONNX that PyTorch writes.

        anomalib asks for an older one, to which the conversion fails at length before the file is written all the same.

        Args:
            export_root: Folder for `weights/onnx`.
            model_file_name: Name of the file, without `.onnx`.
            input_size: Height and width in pixels of all images; None for any.
            **kwargs: Arguments of `torch.onnx.export`.

        Returns:
            Path of the file.
        """
        options = {"opset_version": ONNX_VERSION, "verbose": False} | kwargs
        with self._folded(), _warnings_alone("onnxscript", "onnx_ir"):
            return super().to_onnx(self.run or export_root, model_file_name, input_size, **options)  # type: ignore[misc]

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401
        """Write the model for OpenVINO, with arguments as anomalib's."""
        run, self.run = self.run, None  # the ONNX file on the way goes where anomalib wants it
        try:
            return super().to_openvino(run or export_root, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.run = run

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Write the model for anomalib's `TorchInferencer`, which calls it outside `torch.no_grad`.

        Batch norms are folded, and the weights ask for no gradient, so maps and scores are plain tensors, whose
        `numpy()` works, and no graph is kept in memory. Gradients with respect to an image are there for whoever asks
        for them. This model itself stays as it is.

        Args:
            export_root: Folder for `weights/torch`.
            model_file_name: Name of the file, without `.pt`.

        Returns:
            Path of the file.
        """
        with self._folded():
            return super().to_torch(self.run or export_root, model_file_name)  # type: ignore[misc]

    @contextlib.contextmanager
    def _folded(self) -> Iterator[None]:
        """Have an `inference_copy` of the networks in their place."""
        network = self.model
        self.model = inference_copy(network)
        try:
            yield
        finally:
            self.model = network
