# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A training that has diverged ends at that step, in one sentence, before it spoils a checkpoint."""

from collections import deque
from typing import NamedTuple

import torch
from lightning.pytorch.strategies import Strategy

RATES = ("student_lr", "segmentation_lr and head_lr")  # of the two phases


class _Pending(NamedTuple):
    """A loss that a GPU may not have computed yet: its step and phase, and whether it is finite, once that is known."""

    step: int
    phase: int
    finite: torch.Tensor
    known: torch.Event


class FiniteLoss:
    """Watches the losses of a training, without making the host wait for a GPU.

    A loss on the CPU is looked at before its backward pass. On a GPU the answer travels behind the step and is read as
    soon as it is there, a step or two later, or when `settle` asks for it. It knows steps, phases and losses, and
    nothing of the networks.
    """

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def watch(self, loss: torch.Tensor, step: int, phase: int, strategy: Strategy) -> None:
        """Look at a loss, and at earlier ones that have become known.

        Args:
            loss: Scalar loss of this device, any floating dtype.
            step: Number of the step, from 0.
            phase: 0 or 1.
            strategy: Brings devices together: all of them end with the one whose loss is not finite.

        Raises:
            FloatingPointError: If this loss, or an earlier one, is NaN or infinite.
        """
        finite = strategy.reduce(loss.detach().float(), reduce_op="mean").isfinite()
        if finite.device.type == "cuda":
            answer = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(finite, non_blocking=True)
            known = torch.Event(finite.device)
            known.record()
            self._pending.append(_Pending(step, phase, answer, known))
        elif not finite:
            self._stop(step, phase)
        while self._pending and self._pending[0].known.query():
            self._read()

    def settle(self) -> None:
        """Wait for the losses that are on their way, before something is stored.

        Raises:
            FloatingPointError: If one of them is NaN or infinite.
        """
        while self._pending:
            self._pending[0].known.synchronize()
            self._read()

    def _read(self) -> None:
        earliest = self._pending.popleft()
        if not earliest.finite:
            self._pending.clear()
            self._stop(earliest.step, earliest.phase)

    @staticmethod
    def _stop(step: int, phase: int) -> None:
        raise FloatingPointError(diverged(step, phase))


def diverged(step: int, phase: int, what: str = "The loss is") -> str:
    """Say that a training has diverged.

    Args:
        step: Number of the step, from 0.
        phase: 0 or 1.
        what: What is NaN or infinite, with its verb.

    Returns:
        The sentence.

    Example:
        >>> diverged(12, 0)
        'The loss is NaN or infinite in phase 1 at step 13, and the training ends here: lower student_lr, or train \
with --trainer.precision 32-true if it was less, and begin anew or go on from the last checkpoint, which is sound.'
    """
    return (
        f"{what} NaN or infinite in phase {phase + 1} at step {step + 1}, and the training ends here: lower "
        f"{RATES[phase]}, or train with --trainer.precision 32-true if it was less, and begin anew or go on from the "
        "last checkpoint, which is sound."
    )
