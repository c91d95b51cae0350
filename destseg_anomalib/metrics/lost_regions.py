# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What becomes of the regions of a mask when it is resized."""

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg_anomalib.metrics.instances import label_regions


def count_lost_regions(original: NDArray[np.bool_], resized: NDArray[np.bool_]) -> tuple[int, int]:
    """Count the regions of a mask that leave no pixel in its resized form.

    A resize by area keeps a pixel only if part of the ground it covers is defective, so a region survives if a kept
    pixel covers some of it.

    Args:
        original: Boolean ``(H, W)``, the mask at its original size.
        resized: Boolean ``(h, w)``, the whole of the mask at another size.

    Returns:
        The number of regions lost and the number of regions of ``original``.

    Example:
        >>> import numpy as np
        >>> original = np.zeros((8, 8), dtype=bool)
        >>> original[0, 0] = original[4:, 4:] = True
        >>> resized = np.array([[False, False], [False, True]])
        >>> count_lost_regions(original, resized)
        (1, 2)
    """
    labels, boxes = label_regions(original)
    covered = cv2.resize(resized.view(np.uint8), original.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    kept = int(np.count_nonzero(np.unique(labels[covered > 0])))
    return len(boxes) - kept, len(boxes)
