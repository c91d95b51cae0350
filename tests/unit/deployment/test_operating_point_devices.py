# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Two processes that share a validation set the same point as one."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch

from destseg_anomalib import OperatingPoint


def part(index: int) -> ImageBatch:
    """Part of a number; the odd ones have a defect."""
    generator = torch.Generator().manual_seed(index)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:4, 2:5] = bool(index % 2)
    return ImageBatch(
        image=torch.zeros(1, 3, 8, 8),
        image_path=[f"{index}.png"],
        anomaly_map=torch.rand(1, 1, 8, 8, generator=generator) + mask,
        gt_mask=mask,
        gt_label=torch.tensor([bool(index % 2)]),
    )


def validated(indices: list[int], rank: int = 0, world_size: int = 1) -> dict[str, list[float]]:
    state = SimpleNamespace(fn="validate")
    trainer: Any = SimpleNamespace(global_rank=rank, world_size=world_size, sanity_checking=False, state=state)
    point = OperatingPoint(false_alarms=0.2)
    point.on_validation_epoch_start(trainer, None)
    for index in indices:
        point.on_validation_batch_end(trainer, None, part(index))
    point.on_validation_epoch_end(trainer, None)
    return {name: value.reshape(-1).tolist() for name, value in point.state_dict().items()}


def share_of(rank: int, indices: list[int], meeting: Path, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    results.put(validated(indices, rank, world_size=2))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork")
@pytest.mark.parametrize("shares", [([0, 2, 4, 6, 8], [1, 3, 5, 7, 0]), (list(range(9)), [0])], ids=["even", "uneven"])
def test_two_devices_set_the_point_of_one_and_count_a_repeated_image_once(tmp_path: Path, shares: tuple) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    arguments = [(rank, share, tmp_path / "meeting", results) for rank, share in enumerate(shares)]
    workers = [context.Process(target=share_of, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join(60)
    expected = validated(list(range(9)))
    assert len(expected["learned.scores_of_good_parts"]) == 5
    assert found == [expected, expected]
