# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Data modules. Importing this package makes `DemoSurfaces` an attribute of `anomalib.data` too."""

import anomalib.data

from destseg_anomalib.data.demo import DemoSurfaces
from destseg_anomalib.plugin import register

__all__ = ["DemoSurfaces"]

# anomalib's benchmark looks data modules up as attributes of `anomalib.data` and nowhere else.
register(anomalib.data, DemoSurfaces)
