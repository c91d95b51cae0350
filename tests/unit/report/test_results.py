# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Results are whole or not there, and jobs are told apart by their configuration."""

from pathlib import Path

import pandas as pd
import pytest

from destseg_anomalib.report.results import COLUMNS, job_name, read_result, write_result, write_table

CONFIG = {"model": {"class_path": "Padim"}, "data": {"class_path": "MVTecAD"}, "seed": 0}


def test_a_result_is_read_as_it_was_written(tmp_path) -> None:
    folder = tmp_path / "job"
    assert read_result(folder) is None
    write_result(folder, {"status": "finished", "row": {"IAP": 0.5}})
    assert read_result(folder) == {"status": "finished", "row": {"IAP": 0.5}}
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_a_write_that_is_interrupted_leaves_the_result_before_it(tmp_path, monkeypatch) -> None:
    write_result(tmp_path, {"status": "failed"})

    def power_cut(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, {"status": "finished"})
    assert read_result(tmp_path) == {"status": "failed"}


def test_the_name_of_a_job_depends_on_all_of_its_configuration_and_not_on_the_order_of_its_keys() -> None:
    assert job_name(CONFIG) == job_name(dict(reversed(CONFIG.items())))
    names = {
        job_name(CONFIG),
        job_name(CONFIG | {"seed": 1}),
        job_name(CONFIG | {"accelerator": "cpu"}),
        job_name(CONFIG | {"model": {"class_path": "Padim", "trainer": {"precision": "bf16-mixed"}}}),
    }
    assert len(names) == 4


def test_the_name_of_a_job_is_fit_for_a_folder() -> None:
    data = {"class_path": "Folder", "init_args": {"name": "screws / left: 1"}}
    name = job_name(CONFIG | {"data": data, "model": {"class_path": "Padim", "name": "Padim (50)"}})
    assert name.startswith("Padim_50_-screws_left_1-seed0-")


def test_rows_that_differ_in_their_columns_make_one_table(tmp_path) -> None:
    rows = [{"job": "a", "status": "failed"}, {"job": "b", "status": "finished", "IAP": 0.5, "pixel_F1Max": 0.25}]
    write_table(tmp_path / "results.csv", rows)
    table = pd.read_csv(tmp_path / "results.csv")
    assert set(table.columns) == {*COLUMNS, "pixel_F1Max"}
    assert list(table["IAP"].isna()) == [True, False]
    assert list(table.columns).index("pixel_F1Max") == list(table.columns).index("IAP@90") + 1


def test_a_benchmark_that_has_just_begun_has_an_empty_table(tmp_path) -> None:
    write_table(tmp_path / "results.csv", [])
    assert list(pd.read_csv(tmp_path / "results.csv").columns) == list(COLUMNS)
