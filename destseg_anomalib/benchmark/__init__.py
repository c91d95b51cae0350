# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark. Importing this package lets `anomalib benchmark` run configurations that have a `protocol:`."""

from anomalib.cli import pipelines

from .pipeline import Benchmark

__all__ = ["Benchmark"]

if pipelines.PIPELINE_REGISTRY is not None:
    pipelines.PIPELINE_REGISTRY["benchmark"] = Benchmark
