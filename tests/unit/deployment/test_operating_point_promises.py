# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds beside the definitions of their promises, written another way."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from destseg_anomalib.deployment.promises import Promise, threshold_for_false_alarms, threshold_for_recall

# Few different numbers, so that ties are the rule, with the smallest steps of float32 among them.
STEP = float(np.nextafter(np.float32(1), np.float32(2)))
VALUES = st.sampled_from([-2.0, -1e-45, 0.0, 1e-45, 0.25, 1.0, STEP, 3e38])
SCORES = st.lists(VALUES | st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)
SHARES = st.integers(1, 99).map(lambda hundredths: hundredths / 100)


def p_value(scores: list[float], new: float) -> Fraction:
    """Conformal p-value of a new part beside n good ones."""
    return Fraction(1 + sum(score >= new for score in scores), len(scores) + 1)


@settings(max_examples=1000, deadline=None)
@given(SCORES, st.booleans(), SHARES)
def test_alarms_are_those_of_the_conformal_p_value(scores: list[float], tight: bool, share: float) -> None:
    if tight:  # n = 1 / share - 1
        share = 1 / (len(scores) + 1)
    values = np.array(scores, np.float32)
    exact = Fraction(str(share))
    if exact * (len(scores) + 1) < 1:
        with pytest.raises(ValueError, match=f"cannot be promised from {len(scores)} good parts"):
            threshold_for_false_alarms(values, share)
        return
    threshold = threshold_for_false_alarms(values, share)
    tiny = np.finfo(np.float32).smallest_normal
    neighbours = [np.nextafter(values, np.float32(end)) for end in (-np.inf, np.inf)]
    for new in np.concatenate([values, *neighbours]):
        if new == 0 or abs(new) >= tiny:  # denormal numbers are as good as zero
            assert (new >= threshold) == (p_value(values.tolist(), float(new)) <= exact)


@pytest.mark.parametrize("good", [1, 2, 3, 9, 19, 20, 99, 332, 999])
def test_the_smallest_share_that_a_refusal_names_is_accepted_and_so_is_the_number_of_parts(good: int) -> None:
    scores = np.arange(1, good + 1, dtype=np.float32)
    with pytest.raises(ValueError, match="cannot be promised") as caught:
        threshold_for_false_alarms(scores, 0.0003)
    assert len(str(caught.value).splitlines()) == 1
    words = str(caught.value).replace("=", " ").split()
    least, share = int(words[words.index("out") + 1]), float(words[-3])
    assert float(Fraction(1, good + 1)) <= share < 1.011 / (good + 1)
    assert threshold_for_false_alarms(scores, share) == np.nextafter(scores[-1], np.float32(np.inf))
    assert threshold_for_false_alarms(np.zeros(least, np.float32), 0.0003) > 0
    with pytest.raises(ValueError, match="cannot be promised"):
        threshold_for_false_alarms(np.zeros(least - 1, np.float32), 0.0003)


def test_the_share_of_alarms_on_unseen_good_parts_is_promised_on_average() -> None:
    draws = np.random.default_rng(0).gamma(2, size=(20_000, 20)).astype(np.float32)
    for share in (0.05, 0.1, 0.2):
        alarms = [row[-1] >= threshold_for_false_alarms(row[:-1], share) for row in draws]
        spread = (share * (1 - share) / len(draws)) ** 0.5
        assert share - 4 * spread < np.mean(alarms) < share + 4 * spread  # n + 1 = 20 makes it exact


@settings(max_examples=300, deadline=None)
@given(SCORES, st.integers(1, 100).map(lambda hundredths: hundredths / 100))
def test_at_least_the_promised_defects_are_found_and_not_at_the_next_higher_score(
    scores: list[float], recall: float
) -> None:
    values = np.array(scores, np.float32)
    threshold = threshold_for_recall(values, recall)
    wanted = Fraction(str(recall)) * len(values)
    assert (values >= threshold).sum() >= wanted
    for higher in values[values > threshold]:
        assert (values >= higher).sum() < wanted


def test_without_good_parts_or_defects_a_sentence_says_what_is_lacking() -> None:
    none, some = np.empty(0, np.float32), np.ones(3, np.float32)
    with pytest.raises(
        ValueError, match=r"^instance_recall=0.9 is a share of the defects .* showed none with a mask: "
    ):
        Promise(0.9, None).threshold(none, some)
    with pytest.raises(ValueError, match=r"^false_alarms=0.1 is set from good parts .*, and the validation has none: "):
        Promise(None, 0.1).threshold(some, none)
    with pytest.raises(ValueError, match="no validation has shown"):
        Promise(None, 0.1).threshold(none, none)


@pytest.mark.parametrize("recall", [0.0, 1.5, -0.1])
def test_shares_of_defects_that_are_none_are_refused(recall: float) -> None:
    with pytest.raises(ValueError, match=r"instance_recall=.* is no share of the defects"):
        Promise(recall, None).check()


@pytest.mark.parametrize("alarms", [0.0, 1.0, -0.1])
def test_shares_of_good_parts_that_are_none_are_refused(alarms: float) -> None:
    with pytest.raises(ValueError, match=r"false_alarms=.* is no share of good parts"):
        Promise(None, alarms).check()


@pytest.mark.parametrize("promise", [Promise(None, None), Promise(0.9, 0.1)])
def test_one_promise_is_kept(promise: Promise) -> None:
    with pytest.raises(ValueError, match="keeps one promise"):
        promise.check()
