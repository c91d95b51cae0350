# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Data modules. Importing this package makes ``DemoSurfaces`` an attribute of ``anomalib.data`` too."""

import warnings

import anomalib.data

from destseg_anomalib.data.demo import DemoSurfaces

__all__ = ["DemoSurfaces"]

# anomalib's benchmark looks data modules up as attributes of `anomalib.data` and nowhere else.
if getattr(anomalib.data, "DemoSurfaces", DemoSurfaces) is DemoSurfaces:
    anomalib.data.DemoSurfaces = DemoSurfaces
else:
    warnings.warn(
        "anomalib.data already has another DemoSurfaces: name this one destseg_anomalib.data.DemoSurfaces in full.",
        stacklevel=2,
    )
