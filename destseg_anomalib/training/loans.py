# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What is changed on objects of others for the time of a stage, and put back when it ends, however it ends."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from destseg_anomalib.metrics.guest import Guest, take_off


class Loans(Guest, Checkpoint):
    """Takes back whatever a model has put on a trainer, a strategy or a data set, which are not its own.

    Lightning tears nothing down after an exception or Ctrl-C, but it tells callbacks of it: what is lent here is taken
    back in both cases, so that the next model finds these objects as they were. Callbacks of ours are lent as well:
    Lightning would leave them on the trainer, to act on the next model. It knows nothing of what it lends, and writes
    nothing: it is a `Checkpoint` since Lightning calls these last, and one that is written when a training is stopped
    must find everything in its place.

    Args:
        guests: Callbacks that leave the trainer when a stage ends; this one does so too.
    """

    def __init__(self, guests: Sequence[Callback] = ()) -> None:
        self._returns: list[Callable[[], None]] = []
        self._guests = [self, *guests]

    def lend(self, owner: Any, name: str, value: Any) -> None:  # noqa: ANN401
        """Set an attribute until the stage ends.

        Args:
            owner: Object of somebody else.
            name: Attribute to set.
            value: What it is for the time being.
        """
        before = getattr(owner, name)
        self.on_return(lambda: setattr(owner, name, before))
        setattr(owner, name, value)

    def on_return(self, action: Callable[[], None]) -> None:
        """Have something undone when the stage ends.

        Args:
            action: Undoes it; called once.
        """
        self._returns.append(action)

    def take_back(self) -> None:
        """Undo everything, the latest first."""
        while self._returns:
            self._returns.pop()()

    def leave(self, trainer: Trainer) -> None:
        """Take back what the stage was lent, and go with the guests."""
        self.take_back()
        take_off(trainer, self._guests)
