# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The state that all pixel metrics share: every score once in CPU memory, or counts of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from destseg_anomalib.metrics.instances import Regions, find_regions, to_arrays
from destseg_anomalib.metrics.levels import BinnedPixels, ExactPixels, add_scores, move_positives
from destseg_anomalib.metrics.negatives import ExactNegatives


class PixelStore(Metric):
    """Scores of all pixels seen so far, split into background and regions.

    Exactly, 4 bytes a pixel in CPU memory whatever the device of the maps. With ``bits``, three histograms of
    ``8 * 2**bits`` bytes each and no pixel at all: background, positives, and positives weighed by 1 over the area of
    their region. Either way score, area and box of each region. Between processes only positives and counts travel:
    each counts its own background, so that a distributed evaluation needs no more memory than a single one.

    Args:
        bits: ``None`` to keep pixels exactly, or the number of leading bits of a float32 score, 10 to 24, that tell
            two pixels apart. 18 resolve 0.2 % of a score.
        overlap: Fraction of a region that must be exceeded for it to count as found, in [0, 1).
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``bits`` or ``overlap`` is out of range.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    negatives: list[torch.Tensor]
    positives: list[torch.Tensor]
    scores: list[torch.Tensor]
    areas: list[torch.Tensor]
    boxes: list[torch.Tensor]
    histogram: torch.Tensor

    def __init__(self, bits: int | None = None, overlap: float = 0.5, **kwargs: object) -> None:
        if bits is not None and not 10 <= bits <= 24:
            msg = f"bits must be None or lie between 10 and 24, got {bits}."
            raise ValueError(msg)
        if not 0 <= overlap < 1:
            msg = f"overlap is a fraction of a region in [0, 1), got {overlap}."
            raise ValueError(msg)
        super().__init__(**kwargs)
        self.bits, self.overlap = bits, overlap
        for name in ("negatives", "positives", "scores", "areas", "boxes"):
            self.add_state(name, [], dist_reduce_fx="cat")
        if bits is not None:
            # One column until there are pixels: torchmetrics keeps a copy of what a state begins with, and adds states.
            self.add_state("histogram", torch.zeros(3, 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        preds: torch.Tensor,
        target: torch.Tensor,
        names: Sequence[str] | None = None,
        inside: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add a batch; batches may differ in size.

        Args:
            preds: Anomaly maps ``(B, H, W)`` or ``(B, 1, H, W)``, any real dtype and range; compared in float32.
            target: Ground truth of the same batch and size, boolean, or numbers that are 0 or 1.
            names: Names of the images for error messages.
            inside: Boolean ``(H, W)``, which pixels count; ``None`` for all of them. No region reaches beyond.

        Raises:
            ValueError: If the shapes are wrong or differ, a mask is not binary or a map holds NaN.
        """
        maps, masks = to_arrays(preds, target, names)
        if self.bits is not None:
            histogram = self._histogram(self.bits)
            add_scores(histogram, maps.reshape(-1) if inside is None else maps[:, inside].reshape(-1))
        for scores, mask in zip(maps, masks, strict=True):
            positives, regions = find_regions(scores, mask, self.overlap)
            if self.bits is None:
                background = ~mask if inside is None else inside & ~mask
                whole = inside is None and not positives.size
                self.negatives.append(torch.from_numpy(scores.flatten() if whole else scores[background]))
                self.positives.append(torch.from_numpy(positives))
            else:
                move_positives(histogram, positives, regions.areas)
            self.scores.append(torch.from_numpy(regions.scores))
            self.areas.append(torch.from_numpy(regions.areas))
            self.boxes.append(torch.from_numpy(regions.boxes))
        if self.bits is not None:
            self.histogram = torch.from_numpy(histogram).to(self.histogram.device)

    def _histogram(self, bits: int) -> NDArray[np.int64]:
        """Counts so far, int64 ``(3, 2 ** bits)``; of new ones the system gives only those bins that are used."""
        histogram = self.histogram.cpu().numpy()
        return histogram if histogram.shape[1] > 1 else np.zeros((3, 1 << bits), dtype=np.int64)

    def collect(self) -> tuple[ExactPixels | BinnedPixels, Regions]:
        """Bring together what a figure needs, over all processes while synchronised.

        Returns:
            The pixels, and the regions, image after image.
        """
        regions = Regions(
            scores=self._gather(self.scores, np.empty(0, dtype=np.float32)),
            areas=self._gather(self.areas, np.empty(0, dtype=np.int64)),
            boxes=self._gather(self.boxes, np.empty((0, 4), dtype=np.int32)),
        )
        if self.bits is not None:
            return BinnedPixels(self._sum(self._histogram(self.bits)), regions.areas.size), regions
        positives = self._gather(self.positives, np.empty(0, dtype=np.float32))
        negatives = ExactNegatives([chunk.cpu().numpy() for chunk in self.negatives], self._sum)
        return ExactPixels(positives, regions.areas, negatives), regions

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: object = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Let :meth:`compute` speak for all processes; pixels stay where they are, unlike in torchmetrics' own sync.

        Args:
            dist_sync_fn: Not used, as nothing but regions, positives and counts is exchanged.
            process_group: Not used; give the group to the constructor.
            should_sync: Whether to synchronise at all.
            distributed_available: Tells whether there are several processes; torchmetrics' own test by default.
        """
        del dist_sync_fn, process_group
        available = distributed_available or self.distributed_available_fn
        self._is_synced = should_sync and bool(available())

    def unsync(self, should_unsync: bool = True) -> None:
        """Let :meth:`compute` speak for this process alone again.

        Args:
            should_unsync: Whether to do so.
        """
        self._is_synced = self._is_synced and not should_unsync

    def _gather(self, chunks: list[torch.Tensor], empty: NDArray[Any]) -> NDArray[Any]:
        """Concatenate chunks over images and, while synchronised, over processes in the order of their ranks."""
        # Not torch.cat, whose threads wait for each other where a core is busy.
        joined = np.concatenate([empty, *(chunk.cpu().numpy() for chunk in chunks)])
        chunks[:] = [torch.from_numpy(joined)]  # so that they are not held twice
        if not self._is_synced:
            return joined
        parts = gather_all_tensors(torch.from_numpy(joined).to(self.device), self.process_group)
        return np.concatenate([part.cpu().numpy() for part in parts])

    def _sum(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum counts over processes while synchronised."""
        if not self._is_synced:
            return counts
        total = torch.from_numpy(counts).to(self.device, copy=True)
        torch.distributed.all_reduce(total, group=self.process_group)
        return total.cpu().numpy()
