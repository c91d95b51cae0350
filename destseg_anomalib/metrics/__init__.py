# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Instance metrics, and an evaluator that ranks raw anomaly maps."""

from destseg_anomalib.metrics.evaluator import RawMapEvaluator
from destseg_anomalib.metrics.iap import (
    IAP,
    IAPAtRecall,
    instance_average_precision,
    precision_at_instance_recall,
)

__all__ = [
    "IAP",
    "IAPAtRecall",
    "RawMapEvaluator",
    "instance_average_precision",
    "precision_at_instance_recall",
]
