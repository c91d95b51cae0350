# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
    sides = {side: run for side, run in example.SIDES.items() if side != "ADEval" or find_spec("adeval")}
    results = {side: run(data) for side, run in sides.items()}
    exact = results["our six"]
    for side, figures in results.items():
        for name, value in figures.items():
            counted_in_bins = "bits" in side or side == "ADEval"
            assert value == pytest.approx(exact[name], abs=2e-3 if counted_in_bins else 1e-6), f"{side}: {name}"


def test_adeval_gets_every_map_and_mask_and_its_pixel_figures_are_named_as_ours(
    example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[int, int, str]] = []

    class Accumulator:
        def __init__(self, lowest: float, highest: float) -> None:
            assert (lowest, highest) == (0, 1)

        def add_anomap_batch(self, maps: np.ndarray, masks: np.ndarray) -> None:
            added.append((len(maps), int(masks.sum()), masks.dtype.name))

        def summary(self) -> dict[str, float]:
            return {"i_auroc": 0.1, "p_auroc": 0.2, "p_aupr": 0.3, "p_aupro": 0.4}

    monkeypatch.setitem(sys.modules, "adeval", SimpleNamespace(EvalAccumulator=Accumulator))
    data = example.TestSet(tmp_path, 5, 512)
    data.make()
    assert example.run_adeval(data) == {"AUROC": 0.2, "AUPR": 0.3, "AUPRO": 0.4}
    assert added == [(len(batch.gt_mask), int(batch.gt_mask.sum()), "uint8") for batch in data.batches()]


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
    rows = example.compare(2, 64, tmp_path, example.SIDES)
    turn = [side for side in example.SIDES if side != "plain loop"]
    assert called == [*example.SIDES, *turn * (example.ROUNDS - 1)]
    assert [line["s"] for line in rows] == ["2.00"] * 6
    assert [line["its s"] for line in rows] == ["2.00", "8.00", "2.00", "8.00", "2.00", "2.00"]
    assert [line["MB"] for line in rows] == ["2"] * 6


def test_the_table_has_the_rows_of_the_sides_that_were_named(
    example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"seconds": 1.0, "bytes": 1e6, "figures": {"AUROC": 0.5}}
    monkeypatch.setattr(example, "measure_apart", lambda *_: result)
    rows = example.compare(2, 64, tmp_path, ["our six", "our six, 18 bits", "anomalib AUROC"])
    assert [(line["ours"], line["beside"]) for line in rows] == [("our six, 18 bits", "our six")]


def test_a_missing_adeval_is_said_and_left_out(
    example, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    measured: list[str] = []
    line = {"ours": "our six", "beside": "none"}
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(example, "compare", lambda *arguments: measured.extend(arguments[3]) or [line])
    monkeypatch.setattr(sys, "argv", ["benchmark_metrics.py", "--sets", "2x64", "--sides", "our six", "ADEval"])
    example.main()
    assert measured == ["our six"]
    assert "ADEval is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_prints_its_table() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--sets", "2x64"], check=True, capture_output=True, text=True, timeout=590
    )
    assert done.stdout.count("2x64") == (6 if find_spec("adeval") else 4)
