# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds that keep a promise, from the scores of defects and of good parts in a validation."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from destseg_anomalib.metrics.curves import index_at_recall

NEVER_SET = (
    "The operating point has not been set, since no validation has shown its OperatingPoint any image: train or "
    "validate with images to validate on and without limit_val_batches=0, or use a checkpoint of a model with one."
)


class Promise(NamedTuple):
    """One of two promises.

    Attributes:
        instance_recall: Share of the defects that is found, in (0, 1], or ``None``.
        false_alarms: Share of good parts that raise an alarm, in (0, 1), or ``None``.
    """

    instance_recall: float | None
    false_alarms: float | None

    def check(self) -> None:
        """Refuse none or two promises, and shares that are none.

        Raises:
            ValueError: The sentence says which.
        """
        recall, alarms = self
        if (recall is None) == (alarms is None):
            msg = "OperatingPoint keeps one promise: give either instance_recall or false_alarms, such as 0.9 or 0.01."
            raise ValueError(msg)
        if recall is not None and not 0 < recall <= 1:
            msg = f"instance_recall={recall} is no share of the defects: give a number in (0, 1], such as 0.9."
            raise ValueError(msg)
        if alarms is not None and not 0 < alarms < 1:
            msg = f"false_alarms={alarms} is no share of good parts: give a number in (0, 1), such as 0.01."
            raise ValueError(msg)

    def check_table(self, table: pd.DataFrame | None) -> None:
        """Refuse images for validation that cannot carry the promise.

        Args:
            table: A row an image, as data sets of anomalib have it, with ``label_index`` and perhaps ``mask_path``;
                without it nothing is known, and nothing refused.

        Raises:
            ValueError: The sentence says what is lacking.
        """
        if table is None or "label_index" not in table:
            return
        bad = table["label_index"] == 1
        if "mask_path" in table:
            bad &= table["mask_path"].fillna("") != ""
        if self.false_alarms is not None:
            check_good_parts(int((table["label_index"] == 0).sum()), self.false_alarms)
        elif not bad.any():
            self.threshold(np.empty(0, np.float32), np.zeros(1, np.float32))

    def threshold(self, defects: NDArray[np.float32], good_parts: NDArray[np.float32]) -> np.float32:
        """Threshold that keeps the promise.

        Args:
            defects: Float32 ``(R,)``, scores of defects.
            good_parts: Float32 ``(n,)``, scores of good parts.

        Returns:
            The threshold.

        Raises:
            ValueError: If the scores cannot carry the promise.
        """
        if not defects.size and not good_parts.size:
            raise ValueError(NEVER_SET)
        if self.false_alarms is not None:
            return threshold_for_false_alarms(good_parts, self.false_alarms)
        return threshold_for_recall(defects, self.instance_recall or 1.0)


def threshold_for_recall(scores: NDArray[np.float32], recall: float) -> np.float32:
    """Highest threshold at which a share of the defects is found, as of IAP@k.

    Args:
        scores: Float32 ``(R,)``, the scores of the defects in any order: a defect is found at a threshold if its score
            reaches it.
        recall: The share k, in (0, 1].

    Returns:
        One of the scores.

    Raises:
        ValueError: If there is no defect.

    Example:
        >>> import numpy as np
        >>> threshold_for_recall(np.array([4, 2, 3, 1, 5], np.float32), 0.8).item()
        2.0
    """
    if not scores.size:
        msg = (
            f"instance_recall={recall:g} is a share of the defects that a validation shows, and it showed none with a "
            "mask: validate on defective parts with masks, or set false_alarms=, which needs good parts alone."
        )
        raise ValueError(msg)
    return np.sort(scores)[index_at_recall(scores.size, recall)]


def threshold_for_false_alarms(scores: NDArray[np.float32], share: float) -> np.float32:
    """Lowest threshold that a good part reaches with a probability of at most a share (split conformal).

    The threshold is the next number above the ``ceil((n + 1)(1 - share))``-th smallest of n scores of good parts. If
    these and the next good part are exchangeable, as drawn in any order from one production, the probability that it
    raises an alarm is at most the share, on average over such draws of both (Papadopoulos et al., *Inductive Confidence
    Machines for Regression*, ECML 2002; Bates et al., *Testing for Outliers with Conformal p-values*, Annals of
    Statistics 51(1), 2023). It says nothing of parts from another camera, light or supplier.

    Args:
        scores: Float32 ``(n,)``, the scores of good parts that the model was not trained on, in any order.
        share: In (0, 1).

    Returns:
        The threshold; never a denormal number, which some processors take for zero.

    Raises:
        ValueError: If there are fewer good parts than the promise needs.

    Example:
        >>> import numpy as np
        >>> scores = np.arange(1, 20, dtype=np.float32)
        >>> threshold = threshold_for_false_alarms(scores, 0.1)
        >>> int((scores >= threshold).sum()), bool(threshold > 18)
        (1, True)
    """
    check_good_parts(scores.size, share)
    # Of the decimal number that was written, not of the binary one nearest to it.
    rank = math.ceil((scores.size + 1) * (1 - Fraction(str(share))))
    threshold = np.nextafter(np.sort(scores)[rank - 1], np.float32(np.inf))
    smallest = np.finfo(np.float32).smallest_normal
    if abs(threshold) < smallest:
        threshold = smallest if threshold > 0 else np.float32(0)
    return threshold


def check_good_parts(count: int, share: float) -> None:
    """Refuse a promise about good parts that their number cannot carry.

    Args:
        count: How many good parts were held out, n.
        share: The share of false alarms that is promised, in (0, 1).

    Raises:
        ValueError: If the share is below 1 / (n + 1); the sentence says the smallest one that is not.
    """
    if not count:
        msg = (
            f"false_alarms={share:g} is set from good parts that the model was not trained on, and the validation has "
            "none: hold good parts out for it, as with val_split_mode=from_train or good images in the test folder."
        )
        raise ValueError(msg)
    if (count + 1) * Fraction(str(share)) < 1:
        least = math.ceil(1 / Fraction(str(share))) - 1
        msg = (
            f"false_alarms={share:g} cannot be promised from {count} good parts in the validation: hold out {least} or "
            f"more, or set false_alarms={_rounded_up(Fraction(1, count + 1))} or higher."
        )
        raise ValueError(msg)


def _rounded_up(number: Fraction) -> str:
    """Three digits of a number in (0, 1) that are not less than it."""
    digits = 2 - math.floor(math.log10(number))
    return f"{math.ceil(number * 10**digits) / 10**digits:.{digits}f}".rstrip("0")
