# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "benchmark_metrics.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import benchmark_metrics

    return benchmark_metrics


def test_every_side_gives_the_same_figures(example, tmp_path: Path) -> None:
    data = example.TestSet(tmp_path, 6, 64)
    data.make()
    results = {side: function(data) for side, function in example.SIDES.items()}
    exact = results["our six"]
    for side, figures in results.items():
        for name, value in figures.items():
            assert value == pytest.approx(exact[name], abs=2e-3 if "bits" in side else 1e-6), f"{side}: {name}"


def test_a_measurement_gives_time_memory_and_figures(example, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example.TestSet(tmp_path, 2, 64).make()
    example.measure("our IAP", tmp_path, 2, 64)
    result = json.loads(capsys.readouterr().out)
    assert result["seconds"] > 0
    assert result["bytes"] >= 0
    assert result["figures"].keys() == {"IAP"}


def test_sides_take_turns_and_the_table_has_medians(example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def measured(side: str, *_: object) -> dict:
        called.append(side)
        slow = called.count(side) == 2  # one slow moment, that the median must not see
        return {"seconds": 50.0 if slow else 2.0, "bytes": 2e6 if slow else 1e6, "figures": {"IAP": 0.5}}

    monkeypatch.setattr(example, "measure_apart", measured)
    rows = example.compare(2, 64, tmp_path)
    turn = [side for side in example.SIDES if side != "plain loop"]
    assert called == [*example.SIDES, *turn * (example.ROUNDS - 1)]
    assert [line["s"] for line in rows] == ["2.00"] * 4
    assert [line["its s"] for line in rows] == ["2.00", "8.00", "8.00", "2.00"]
    assert [line["MB"] for line in rows] == ["2"] * 4


@pytest.mark.slow
def test_the_script_prints_its_table() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--sets", "2x64"], check=True, capture_output=True, text=True, timeout=590
    )
    assert done.stdout.count("2x64") == 4
