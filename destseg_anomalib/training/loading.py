# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Making a model from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from destseg_anomalib.deployment.export import run_to_export_to
from destseg_anomalib.training.acceptance import check_file
from destseg_anomalib.training.contents import PLAIN_TYPES


class CheckedLoading:
    """Mixin for an anomalib model that looks at a checkpoint before it reads it, and at where it lies."""

    @classmethod
    def checkpoint_safe_globals(cls) -> Sequence[Any]:
        """Types that a checkpoint may hold beside those that PyTorch and anomalib allow."""
        return (*super().checkpoint_safe_globals(), *PLAIN_TYPES)  # type: ignore[misc]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Make a model from a checkpoint, as Lightning does, after a look at the file."""
        check_file(checkpoint_path)
        model = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[misc]
        model.run = run_to_export_to(Path(checkpoint_path))
        return model
