# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Transforms of the papers' evaluation protocol."""

from .rounded_bilinear import RoundedBilinearResize

__all__ = ["RoundedBilinearResize"]
