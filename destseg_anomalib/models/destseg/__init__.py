# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""DeSTSeg: the torch model, and the Lightning model that trains it in anomalib."""

from .lightning_model import DeSTSeg
from .torch_model import DeSTSegModel

__all__ = ["DeSTSeg", "DeSTSegModel"]
