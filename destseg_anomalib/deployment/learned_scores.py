# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The scores that an operating point is set from, as a checkpoint carries them."""

from typing import Any

import numpy as np
import torch
from torch import nn

from destseg_anomalib.deployment.calibration import Calibration
from destseg_anomalib.deployment.promises import NEVER_SET, Promise


class LearnedScores(nn.Module):
    """Scores of the last validation, and what they say of a promise.

    Attributes:
        scores_of_defects: Float32 ``(R,)``, ascending.
        scores_of_good_parts: Float32 ``(n,)``, ascending.
        lacking: Why no threshold keeps the promise that was asked last, ``None`` if one does.
    """

    scores_of_defects: torch.Tensor
    scores_of_good_parts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scores_of_defects", torch.empty(0))
        self.register_buffer("scores_of_good_parts", torch.empty(0))
        self.lacking: str | None = NEVER_SET

    def learn(self, calibration: Calibration) -> None:
        """Take the scores of a validation.

        Args:
            calibration: Of all devices.
        """
        self._keep("scores_of_defects", calibration.defects)
        self._keep("scores_of_good_parts", calibration.good_parts)

    def threshold(self, promise: Promise) -> float:
        """Threshold that keeps a promise; sets `lacking`.

        Args:
            promise: The promise.

        Returns:
            The threshold on raw maps, NaN if there is none.
        """
        try:
            threshold = promise.threshold(self.scores_of_defects.cpu().numpy(), self.scores_of_good_parts.cpu().numpy())
        except ValueError as error:
            self.lacking, threshold = str(error), np.float32(np.nan)
        else:
            self.lacking = None
        return float(threshold)

    def demand(self) -> None:
        """Refuse to judge without a threshold.

        Raises:
            ValueError: If something is lacking.
        """
        if self.lacking is not None:
            raise ValueError(self.lacking)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take as many scores as there are, or none from a checkpoint of another post-processor."""
        for name in self._buffers:
            self._keep(name, state_dict.setdefault(prefix + name, torch.empty(0)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _keep(self, name: str, values: torch.Tensor) -> None:
        # Not as a tensor of inference mode, into which no checkpoint could be read later.
        with torch.inference_mode(mode=False):
            setattr(self, name, values.to(getattr(self, name).device, torch.float32, copy=True))
