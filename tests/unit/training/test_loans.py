# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What belongs to others is given back, the latest first, however a stage ends."""

from types import SimpleNamespace

from lightning.pytorch import Callback

from destseg_anomalib.training.loans import Loans

TRAINER = SimpleNamespace(callbacks=[])


def test_what_was_lent_twice_is_what_it_was_before_the_first_time() -> None:
    owner, loans = SimpleNamespace(size=1, name="a"), Loans()
    loans.lend(owner, "size", 2)
    loans.lend(owner, "size", 3)
    loans.lend(owner, "name", "b")
    assert vars(owner) == {"size": 3, "name": "b"}
    loans.on_exception(TRAINER, None, KeyboardInterrupt())
    assert vars(owner) == {"size": 1, "name": "a"}
    loans.teardown(TRAINER, None, "fit")
    assert vars(owner) == {"size": 1, "name": "a"}


def test_what_is_to_be_undone_is_undone_once() -> None:
    done, loans = [], Loans()
    loans.on_return(lambda: done.append("first"))
    loans.on_return(lambda: done.append("second"))
    loans.teardown(TRAINER, None, "test")
    loans.on_exception(TRAINER, None, ValueError())
    assert done == ["second", "first"]


def test_callbacks_of_ours_leave_and_those_of_others_stay() -> None:
    ours, theirs = Callback(), Callback()
    loans = Loans([ours])
    before = [theirs, ours, loans]
    trainer = SimpleNamespace(callbacks=before)
    loans.teardown(trainer, None, "fit")
    assert trainer.callbacks == [theirs]
    assert len(before) == 3, "the list that Lightning is iterating over is left alone"
