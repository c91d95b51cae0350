# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What phase 2 leaves: an average of the network that learned, not whatever its last step made of it.

The figures of a trained model move from one step to the next as they do from one seed to another. An average over the
last steps moves far less, and costs one more copy of the segmentation network and a few passes over its weights.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

WINDOW = 10
"""The t-th step has a share of WINDOW in t + WINDOW, so that steps before the last tenth of t have little left."""


class WeightAverage:
    """A running average of a network's weights and batch-norm statistics, and the exchange of one for the other.

    After t steps the one at hand is taken in with a share of 10 / (t + 10): the weights of older steps fall with the
    tenth power of their time, so that about the last tenth of the steps counts, however many there are (the
    power-function average of Karras et al., arXiv 2312.02696, Sec. 3.1). It knows tensors and counts, no trainer.

    Lightning's `WeightAveraging` would copy the whole model, teacher and student included, and PyTorch's
    `AveragedModel` makes the host wait for a GPU at every step; the arithmetic is PyTorch's.

    Args:
        network: Network that learns, on its device; its tensors must stay what they are, and be changed in place.
        averaged: Tensors of an earlier average by name, to go on from.
        count: How many steps that average has taken in.
        window: What stands for 10 above.
    """

    def __init__(
        self,
        network: nn.Module,
        averaged: Mapping[str, torch.Tensor] | None = None,
        count: int = 0,
        window: int = WINDOW,
    ) -> None:
        self._network = network.state_dict()
        self._other = {name: value.clone() for name, value in self._network.items()}
        for name, value in (averaged or {}).items():
            self._other[name].copy_(value)
        floats = [name for name, value in self._network.items() if value.is_floating_point()]
        self._floats = tuple([state[name] for name in floats] for state in (self._other, self._network))
        # How many batches a batch norm has seen is no weight: the average has what the network has.
        self._counts = [(self._other[name], self._network[name]) for name in self._network.keys() - set(floats)]
        self._served = False
        self._window = window
        self.count = count

    @torch.no_grad()
    def update(self) -> None:
        """Take in the step that the network has just taken."""
        get_ema_multi_avg_fn(self.count / (self.count + self._window))(*self._floats, None)
        for averaged, current in self._counts:
            averaged.copy_(current)
        self.count += 1

    def serve(self) -> None:
        """Let the network have its averaged weights; it must not learn until `learn`."""
        self._exchange(served=True)

    def learn(self) -> None:
        """Let the network have the weights of its last step again."""
        self._exchange(served=False)

    @torch.no_grad()
    def _exchange(self, *, served: bool) -> None:
        if self.count and served != self._served:
            for name, value in self._network.items():
                before = value.clone()
                value.copy_(self._other[name])
                self._other[name].copy_(before)
            self._served = served

    @property
    def averaged(self) -> dict[str, torch.Tensor]:
        """The averaged tensors by name."""
        return self._network if self._served else self._other

    @property
    def last(self) -> dict[str, torch.Tensor]:
        """The tensors of the last step by name."""
        return self._other if self._served else self._network


def begin_average(model: Any) -> WeightAverage | None:  # noqa: ANN401  both models have its attributes
    """Make the average that a training is to keep, or go on with that of its checkpoint.

    Args:
        model: The Lightning model, on its device, with its checkpoint read.

    Returns:
        The average; None if there is nothing to average or the user wants none.
    """
    if not model.hparams.average_weights or model.model.segmentation is None:
        return None
    return WeightAverage(model.model.segmentation, *model.average_so_far)


def agree(average: WeightAverage | None) -> None:
    """Give the processes of a distributed training one average: their batch norms have seen different images.

    Args:
        average: The average of this process.
    """
    if (
        average is not None
        and average.count
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        for value in average.averaged.values():
            torch.distributed.broadcast(value, src=0)


def put_average(checkpoint: dict[str, Any], average: WeightAverage | None) -> None:
    """Let the weights of a checkpoint be the average, with those of the last step beside them.

    Args:
        checkpoint: A checkpoint of Lightning's, changed in place.
        average: What the training has averaged.
    """
    if average is not None and average.count:
        checkpoint["state_dict"].update(_prefixed(average.averaged))
        checkpoint["averaging"] = {"count": average.count, "last": dict(average.last)}


def take_average(checkpoint: dict[str, Any]) -> tuple[dict[str, torch.Tensor], int]:
    """Let the weights of a checkpoint be those of the last step, from which a training goes on.

    Args:
        checkpoint: A checkpoint of Lightning's, changed in place.

    Returns:
        The averaged tensors by name and how many steps they are of; none and 0 if there is no average.
    """
    if "averaging" not in checkpoint:
        return {}, 0
    last, state = checkpoint["averaging"]["last"], checkpoint["state_dict"]
    averaged = {name: state[prefixed] for name, prefixed in zip(last, _prefixed(last), strict=True)}
    state.update(_prefixed(last))
    return averaged, checkpoint["averaging"]["count"]


def _prefixed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tensors of the segmentation network as a checkpoint does."""
    return {f"model.segmentation.{name}": value for name, value in state.items()}
