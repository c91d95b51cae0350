# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Callbacks that a trainer has for one run."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer


def take_off(trainer: Trainer, callbacks: Sequence[object]) -> None:
    """Take callbacks off a trainer, which Lightning would leave there, to act on the next model.

    Args:
        trainer: The trainer.
        callbacks: Those to go; others, and None, are passed over.
    """
    # A new list: Lightning is iterating over the old one.
    stay = [callback for callback in trainer.callbacks if not any(callback is one for one in callbacks)]  # type: ignore[attr-defined]
    trainer.callbacks = stay  # type: ignore[attr-defined]


class Guest(Callback):
    """A callback that leaves when the run ends, also by an exception or Ctrl-C, after which there is no teardown."""

    def enter(self, trainer: Trainer) -> None:
        """Join the callbacks, behind the others, unless one of the kind is there.

        Args:
            trainer: A trainer that sets a run up.
        """
        if not any(isinstance(callback, type(self)) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.callbacks = [*trainer.callbacks, self]  # type: ignore[attr-defined]  # a new list, see above

    def leave(self, trainer: Trainer) -> None:
        """Go.

        Args:
            trainer: The trainer whose run ends.
        """
        take_off(trainer, [self])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave."""
        del pl_module, stage
        self.leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave."""
        del pl_module, exception
        self.leave(trainer)
