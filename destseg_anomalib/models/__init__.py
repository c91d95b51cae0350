# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Models. Importing this package makes them attributes of ``anomalib.models`` too."""

import anomalib.models

from destseg_anomalib.models.destseg.lightning_model import DeSTSeg
from destseg_anomalib.models.pfadseg.lightning_model import PFADSeg
from destseg_anomalib.plugin import register

__all__ = ["DeSTSeg", "PFADSeg"]

register(anomalib.models, DeSTSeg, PFADSeg)
