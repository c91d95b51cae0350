# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How a model that nobody gave an operating point gets that of its checkpoint."""

import logging
from collections.abc import Mapping
from typing import Any

from anomalib.post_processing import PostProcessor

from destseg_anomalib.deployment.export import export_call
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

    `--model.post_processor...` would be ignored there otherwise, and there alone.
    """
    given = getattr((export_call() or {}).get("model"), "post_processor", None)
    return given if isinstance(given, OperatingPoint) else None
