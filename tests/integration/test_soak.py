# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The soak script trains, prints what it measured, and tells a drift from none."""

import runpy
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "examples" / "soak.py"


@pytest.fixture(scope="module")
def soak() -> dict:
    return runpy.run_path(str(SOAK))


def measured(soak: dict, **changes: float) -> list:
    """Five steady intervals of each phase, the second twice as fast; changes are made to the last of all."""
    steady = {"memory": 1000.0, "files": 20, "speed": 4.0}
    intervals = [
        soak["Interval"](phase, 100 * (5 * phase + i - 4), **steady | {"speed": 4.0 * phase})
        for phase in (1, 2)
        for i in range(5)
    ]
    for name, value in changes.items():
        setattr(intervals[-1], name, value)
    return intervals


def test_steady_measurements_are_no_drift(soak) -> None:
    assert soak["drifts"](measured(soak)) == []
    assert soak["drifts"](measured(soak, memory=1049, speed=7.3)) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"memory": 1051}, "Memory at step 1000 is 1051 MiB, 1000 at step 700."),
        ({"files": 21}, "Open files at step 1000 are 21, 20 at step 700."),
        ({"speed": 7.1}, "Speed at step 1000 is 7.10 steps a second, usually 8.00."),
    ],
)
def test_a_drift_is_named(soak, change, sentence) -> None:
    assert soak["drifts"](measured(soak, **change)) == [sentence]


def test_what_happens_while_a_phase_warms_up_does_not_matter(soak) -> None:
    intervals = measured(soak)
    intervals[5].speed, intervals[5].memory = 0.1, 2000
    assert soak["drifts"](intervals) == []


def test_a_short_soak_runs_through(forks, tmp_path) -> None:
    program = f"import runpy; runpy.run_path({str(SOAK)!r}, run_name='__main__')"
    done = forks.run(program, "--steps", "12", "--every", "2", "--size", "32", folder=tmp_path)
    table = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in table if len(row) == 5 and row[0] in "12"] == [
        [phase, step] for phase, steps in (("1", "246"), ("2", ("8", "10", "12"))) for step in steps
    ], done.stdout + done.stderr
    assert done.returncode == ("drifted." in table[-1] and table[-1] != ["Nothing", "drifted."])
    assert "Open files" not in done.stdout
