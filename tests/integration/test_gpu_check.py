# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What keeps a GPU busy holds without one: few operations, few bytes, and little around the networks."""

from pathlib import Path

import pytest
import torch

from tests.integration.conftest import few_pieces

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.parametrize(("name", "trained", "exported"), [("DeSTSeg", 334, 204), ("PFADSeg", 938, 640)])
def test_a_forward_has_no_more_operations_than_it_had(name, trained, exported) -> None:
    from gpu_check import build, inference_copy, operations

    network = build(name).model.eval()
    assert operations(network) <= trained
    assert operations(inference_copy(network)) <= exported


def test_a_batch_travels_as_bytes_or_not_at_all() -> None:
    from gpu_check import copied_bytes

    from_disk, kept, drawn = copied_bytes(32, 256).values()
    assert from_disk == 32 * 3 * 256 * 256
    assert kept == 0
    assert 0 < drawn < 1000  # all of which is drawn on the CPU so that all devices have the same


def test_every_table_is_printed(monkeypatch) -> None:
    import gpu_check

    few_pieces(monkeypatch)
    monkeypatch.setattr(gpu_check, "BACKBONE", "test_resnet")
    monkeypatch.setattr(gpu_check, "bundled", lambda: {"linear": lambda: torch.nn.Linear(32, 1)})
    rows = [line.split(" | ") for line in gpu_check.parity(CPU, 64) if line.startswith(("| DeSTSeg", "| PFADSeg"))]
    assert [float(row[1]) for row in rows] == [0, 0]  # the CPU beside itself
    rows = [line.split(" | ") for line in gpu_check.steps(CPU, 2, 32, count=1) if line.startswith(("| D", "| P"))]
    assert len(rows) == 8
    assert all(float(cell.strip(" |")) > 0 for row in rows for cell in row[3:])
    rows = [line.split(" | ") for line in gpu_check.pictures(CPU, 32, compiled=False, count=1)][2:]
    assert [row[0] for row in rows] == ["| DeSTSeg"] * 2 + ["| PFADSeg"] * 2 + ["| linear"] * 2
    assert all(len(milliseconds) == 2 and min(milliseconds) > 0 for milliseconds in [gpu_check.around_a_step(3)])


def test_a_compiled_picture_is_timed_beside_the_same_one_eager(monkeypatch) -> None:
    import benchmark_compiled

    monkeypatch.setattr(benchmark_compiled, "MODELS", ("DeSTSeg",))
    lines = benchmark_compiled.table(torch.rand(1, 3, 64, 64), count=1, backend="eager")
    rows = [line.strip("| ").split(" | ") for line in lines][2:]
    assert [row[:2] for row in rows] == [["DeSTSeg", "float32"], ["DeSTSeg", "bfloat16"]]
    assert all(float(cell) > 0 for row in rows for cell in row[2:5])
    assert all(float(row[5]) < 2e-2 for row in rows)
