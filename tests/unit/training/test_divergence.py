# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A loss that is not finite is noticed at its step, on all devices, and on a GPU without waiting for it."""

from types import SimpleNamespace

import pytest
import torch

from destseg_anomalib.training import divergence
from destseg_anomalib.training.divergence import FiniteLoss, diverged

ALONE = SimpleNamespace(reduce=lambda value, reduce_op: value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_ends_the_training_at_its_step(value) -> None:
    losses = FiniteLoss()
    losses.watch(torch.tensor(3.0), 0, 0, ALONE)
    with pytest.raises(
        FloatingPointError, match=r"loss is NaN or infinite in phase 2 at step 8, .*lower segmentation_lr"
    ):
        losses.watch(torch.tensor(value), 7, 1, ALONE)


def test_a_loss_of_half_precision_that_is_finite_goes_on() -> None:
    FiniteLoss().watch(torch.tensor(60000.0, dtype=torch.float16), 0, 0, ALONE)


def test_devices_end_together() -> None:
    """The mean over devices is not finite where one of them is not."""
    together = SimpleNamespace(reduce=lambda value, reduce_op: (value + float("nan")) / 2)
    with pytest.raises(FloatingPointError, match="phase 1 at step 1"):
        FiniteLoss().watch(torch.tensor(1.0), 0, 0, together)


class LateAnswer:
    """An event of a GPU that reaches it after some questions."""

    def __init__(self, questions: int) -> None:
        self.questions = questions

    def query(self) -> bool:
        self.questions -= 1
        return self.questions < 0

    def synchronize(self) -> None:
        self.questions = 0


def test_an_answer_that_is_late_is_read_when_it_is_there_and_names_its_own_step() -> None:
    losses = FiniteLoss()
    losses._pending.append(divergence._Pending(4, 0, torch.tensor(False), LateAnswer(1)))
    losses.watch(torch.tensor(1.0), 5, 0, ALONE)
    with pytest.raises(FloatingPointError, match="at step 5,"):
        losses.watch(torch.tensor(1.0), 6, 0, ALONE)
    losses.watch(torch.tensor(1.0), 7, 0, ALONE)


def test_before_something_is_stored_late_answers_are_waited_for() -> None:
    losses = FiniteLoss()
    losses._pending.append(divergence._Pending(0, 0, torch.tensor(True), LateAnswer(9)))
    losses._pending.append(divergence._Pending(1, 0, torch.tensor(False), LateAnswer(9)))
    with pytest.raises(FloatingPointError, match="at step 2,"):
        losses.settle()
    losses.settle()


def test_the_sentence_says_what_to_lower() -> None:
    assert "lower student_lr," in diverged(0, 0)
    assert "lower segmentation_lr and head_lr," in diverged(0, 1)
