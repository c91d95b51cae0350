# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How a model that nobody gave an operating point gets that of its checkpoint."""

import logging
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from anomalib.post_processing import PostProcessor

from destseg_anomalib.deployment.operating_point import OperatingPoint

logger = logging.getLogger(__name__)


def restore_point(model: Any, config: Mapping[str, Any] | None) -> None:  # noqa: ANN401  any anomalib model
    """Put the checkpoint's `OperatingPoint` in the place of anomalib's default post-processor, before the weights come.

    anomalib stores how a post-processor was made, but not of which class it is.

    Args:
        model: The Lightning model. One that was given another post-processor than anomalib's keeps it.
        config: The checkpoint's `anomalib_post_processor_config`; anything but one of `OperatingPoint` is left alone.
    """
    old, trainer = model.post_processor, model._trainer
    if config is None or "false_alarms" not in config or type(old) is not PostProcessor:
        return
    if old.checkpoint_config() != PostProcessor().checkpoint_config():
        logger.warning(
            "The OperatingPoint of the checkpoint judges, and not the PostProcessor that was given beside it."
        )
    given = _given_to_export()
    promise = {} if given is None else given.promise._asdict()
    model.post_processor = OperatingPoint(**{**config, **promise}).to(model.device)
    if trainer is not None:
        # A new list: Lightning may be iterating over the old one.
        trainer.callbacks = [model.post_processor if callback is old else callback for callback in trainer.callbacks]


def _given_to_export() -> OperatingPoint | None:
    """The operating point of the model that somebody gave anomalib's export beside a checkpoint.

    `Engine.export` (2.7) makes another model of the same class from the checkpoint and hands nothing on to it, so that
    `--model.post_processor...` would be ignored there, and there alone. Its frame is the one place where both meet.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "export" and frame.f_globals.get("__name__") == "anomalib.engine.engine":
            given = getattr(frame.f_locals.get("model"), "post_processor", None)
            return given if isinstance(given, OperatingPoint) else None
        frame = frame.f_back
    return None
