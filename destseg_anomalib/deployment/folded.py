# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Tests and predictions that take no more operations than an exported file does."""

from collections.abc import Callable
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from destseg_anomalib.deployment.inference import inference_copy


class FoldedPrediction:
    """Mixin for an anomalib model that lends: a test or a prediction asks an `inference_copy` of its networks.

    The copy is made when the stage starts, of the weights that it starts with, and goes when it ends; the networks
    stay as they are. If they are compiled, it is compiled alike.
    """

    model: Any
    loans: Any

    folded: Callable[[torch.Tensor], InferenceBatch] | None = None
    """What is asked in place of the networks, for as long as a stage runs."""

    def on_test_start(self) -> None:
        """Fold."""
        super().on_test_start()  # type: ignore[misc]
        self._fold()

    def on_predict_start(self) -> None:
        """Fold."""
        super().on_predict_start()  # type: ignore[misc]
        self._fold()

    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Find the anomalies of a batch."""
        del args, kwargs
        network = self.model if self.folded is None else self.folded
        return batch.update(**network(batch.image)._asdict())

    test_step = predict_step

    def _fold(self) -> None:
        copy = inference_copy(self.model)
        if self.model.compiled_with is not None:
            args, kwargs = self.model.compiled_with
            copy.compile(*args, **kwargs)
        # Its method and not the copy itself, which would become a part of the model.
        self.loans.lend(self, "folded", copy.__call__)
