# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Lines of others that would worry, without cause, whoever trains or asks one of our models."""

import logging
import re
import warnings

from destseg_anomalib.training.loans import Loans

WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # teacher and, in phase 1, segmentation network
    r"Precision bf16-mixed is not supported by the model summary",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # of Lightning, which calls it itself
    r"The dirpath has changed from",  # of Lightning, where a checkpoint of another run is read
    r"'pin_memory' argument is set as true but no accelerator is found",  # of anomalib, which sets it
)
# How many steps a training has is our models' business, and said when it starts; what a user wished for is different.
REPLACED = re.compile(
    r"Overriding (max_steps from -1|check_val_every_n_epoch from 1|val_check_interval from (None|1\.0)"
    r"|num_sanity_val_steps from None|reload_dataloaders_every_n_epochs from 0) with .* for (DeSTSeg|PFADSeg)$"
)


class _Replacements(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return REPLACED.match(record.getMessage()) is None


_REPLACEMENTS = _Replacements()


def hush_replacements() -> None:
    """Let anomalib not say that arguments which nobody gave are replaced by those of our models."""
    logging.getLogger("anomalib.engine.engine").addFilter(_REPLACEMENTS)  # once, however often it is called


def hush(loans: Loans) -> None:
    """Leave the warnings unsaid until a stage ends.

    Args:
        loans: Takes the filters back.
    """
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
        entry = warnings.filters[0]
        loans.on_return(lambda entry=entry: _forget(entry))  # type: ignore[misc]


def _forget(entry: object) -> None:
    if entry in warnings.filters:  # somebody may have brought back those of before
        warnings.filters.remove(entry)  # type: ignore[attr-defined]
