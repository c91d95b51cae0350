# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a trained model needs where it is used."""

from destseg_anomalib.deployment.operating_point import OperatingPoint

__all__ = ["OperatingPoint"]
