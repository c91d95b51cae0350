# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What belongs to others is given back, the latest first, however a stage ends."""

from types import SimpleNamespace

from destseg_anomalib.training.loans import Loans


def test_what_was_lent_twice_is_what_it_was_before_the_first_time() -> None:
    owner, loans = SimpleNamespace(size=1, name="a"), Loans()
    loans.lend(owner, "size", 2)
    loans.lend(owner, "size", 3)
    loans.lend(owner, "name", "b")
    assert vars(owner) == {"size": 3, "name": "b"}
    loans.on_exception(None, None, KeyboardInterrupt())
    assert vars(owner) == {"size": 1, "name": "a"}
    loans.teardown(None, None, "fit")
    assert vars(owner) == {"size": 1, "name": "a"}


def test_what_is_to_be_undone_is_undone_once() -> None:
    done, loans = [], Loans()
    loans.on_return(lambda: done.append("first"))
    loans.on_return(lambda: done.append("second"))
    loans.teardown(None, None, "test")
    loans.on_exception(None, None, ValueError())
    assert done == ["second", "first"]
