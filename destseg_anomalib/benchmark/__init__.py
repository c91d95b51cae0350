# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark. Importing `pipeline` lets `anomalib benchmark` run configurations that have a `protocol:`."""
