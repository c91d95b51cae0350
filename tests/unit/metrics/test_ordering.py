# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from destseg_anomalib.metrics.ordering import from_ordered, to_ordered

scores = arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False))


@given(scores)
def test_integers_order_and_tie_as_their_scores_do(values: np.ndarray) -> None:
    keys = to_ordered(values)
    assert np.array_equal(values[:, None] < values, keys[:, None] < keys)
    assert np.array_equal(values[:, None] == values, keys[:, None] == keys)


@given(scores)
def test_scores_come_back_from_their_integers(values: np.ndarray) -> None:
    assert np.array_equal(from_ordered(to_ordered(values)), values)
