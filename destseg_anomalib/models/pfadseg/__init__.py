# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""PFADSeg: the torch model, and the Lightning model that trains it in anomalib."""

from .lightning_model import PFADSeg
from .torch_model import PFADSegModel

__all__ = ["PFADSeg", "PFADSegModel"]
