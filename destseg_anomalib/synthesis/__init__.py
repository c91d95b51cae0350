# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies that the models train on."""

from .generator import AnomalyGenerator, SyntheticBatch
from .perlin import perlin_masks
from .rotation import Rotation, rotate, rotation_of_category
from .textures import TextureBank, texture_bank

__all__ = [
    "AnomalyGenerator",
    "Rotation",
    "SyntheticBatch",
    "TextureBank",
    "perlin_masks",
    "rotate",
    "rotation_of_category",
    "texture_bank",
]
