# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Order-preserving integers for float32 scores.

IEEE 754 numbers of one sign order like their bit patterns. Flipping every bit of the negative ones and the sign bit of
the others gives unsigned integers in the order of the numbers, so that sorting and binning can use plain integers.
"""

import numpy as np
from numpy.typing import NDArray


def to_ordered(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Map scores to integers that compare as the scores do.

    Args:
        scores: Float32 array of any shape, without NaN. Both zeros map to the same integer.

    Returns:
        Uint32 array of the same shape.

    Example:
        >>> import numpy as np
        >>> to_ordered(np.array([-1.0, -0.0, 0.0, 1.0], dtype=np.float32)).tolist()
        [1082130431, 2147483648, 2147483648, 3212836864]
    """
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero turns -0 into +0
    bits ^= (bits >> 31) | np.int32(-(2**31))
    return bits.view(np.uint32)


def from_ordered(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Invert :func:`to_ordered`.

    Args:
        keys: Uint32 array of any shape.

    Returns:
        Float32 array of the same shape.

    Example:
        >>> import numpy as np
        >>> from_ordered(to_ordered(np.array([-2.5, 0.25], dtype=np.float32))).tolist()
        [-2.5, 0.25]
    """
    bits = keys.view(np.int32)
    return (bits ^ (~(bits >> 31) | np.int32(-(2**31)))).view(np.float32)
