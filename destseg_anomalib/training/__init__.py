# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How a two-step model is trained: its phases, its batches, its checkpoints, and what is refused."""
