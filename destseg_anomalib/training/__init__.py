# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How a two-step model is trained: its phases, its batches, its checkpoints, and what is refused."""

# Whoever imports a file of this room first would be half done with it when anomalib, on its way, lets our models be
# imported, which need the same file. So anomalib, and with it our models, come before.
import anomalib.models  # noqa: F401
