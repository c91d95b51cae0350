# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Random numbers that follow from a seed and from nothing else."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


def mixed_seed(*parts: int) -> int:
    """Make a seed of several numbers, such that sets of numbers that differ at all give unrelated seeds.

    Args:
        *parts: Numbers from 0.

    Returns:
        Seed in [0, 2**63) for a `torch.Generator`.

    Example:
        >>> mixed_seed(0, 1) == mixed_seed(0, 1), mixed_seed(0, 1) == mixed_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) % 2**63


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed, and leave PyTorch's own state of random numbers on the CPU as it was.

    Args:
        seed: The seed; None to draw from that state.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
