# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import json
import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from fabricated import make_results

from destseg_anomalib.report.charts import library
from destseg_anomalib.report.report import main, write_report


def test_a_report_is_one_page_and_the_papers_tables_as_markdown_and_csv(tmp_path) -> None:
    page = write_report(make_results(tmp_path))
    assert page == tmp_path / "results" / "report" / "report.html"
    names = {"table_1_image", "table_2_pixel", "table_3_instance", "supplement_image", "supplement_aupro"}
    written = {file.name for file in page.parent.iterdir()}
    assert written == {"report.html", "summary.csv"} | {f"{name}{end}" for name in names for end in (".md", ".csv")}


def test_the_page_refers_to_nothing_outside_itself(tmp_path) -> None:
    html = write_report(make_results(tmp_path)).read_text(encoding="utf-8")
    assert html.count(library()) == 1  # a browser's test sees that it asks for nothing
    html = html.replace(library(), "")
    targets = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert len(targets) > 20
    assert {target for target in targets if not target.startswith(("#", "data:"))} == set()
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_every_model_category_and_curve_is_on_the_page(tmp_path) -> None:
    html = write_report(make_results(tmp_path)).read_text(encoding="utf-8")
    for model in ("DeSTSeg", "Patchcore", "Newcomer"):
        assert html.count(f'<th scope="row">{model}</th>') == 3  # two categories and the average
    charts = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', html)]
    drawn = {chart["title"]: next(iter(chart["spec"]["datasets"].values())) for chart in charts}
    assert list(drawn) == ["bottle", "cable", "Time for one image against IAP", "Training time against IAP"]
    assert all({row["number"] for row in rows} == {0, 1, 2} for rows in drawn.values())


def test_a_failed_job_is_named_with_its_reason_and_the_rest_is_reported(tmp_path) -> None:
    page = write_report(make_results(tmp_path, failing=["Patchcore-cable-1"]))
    html = page.read_text(encoding="utf-8")
    assert "12 jobs with 2 seeds: 11 finished" in html
    assert "<code>Patchcore-cable-1</code>: RuntimeError: &lt;out of memory&gt;" in html
    assert "`Patchcore-cable-1`: RuntimeError: &lt;out of memory&gt;" in (page.parent / "failed.md").read_text()


def test_the_list_of_failures_goes_when_a_later_run_has_none(tmp_path) -> None:
    failed = write_report(make_results(tmp_path / "a", failing=["Patchcore-cable-1"])).with_name("failed.md")
    assert failed.exists()
    (tmp_path / "a" / "results" / "results.csv").write_bytes(
        (make_results(tmp_path / "b") / "results.csv").read_bytes()
    )
    write_report(tmp_path / "a" / "results")
    assert not failed.exists()


def test_a_benchmark_in_which_every_job_failed_has_a_report(tmp_path) -> None:
    results = make_results(tmp_path, ["DeSTSeg"], ["bottle"], [0], failing=["DeSTSeg-bottle-0"])
    html = write_report(results).read_text(encoding="utf-8")
    assert "No job has finished." in html


def test_results_without_the_folders_of_their_jobs_have_tables_but_neither_curves_nor_pictures(tmp_path) -> None:
    results = make_results(tmp_path, failing=["Patchcore-cable-1"])
    (results / "jobs").rename(tmp_path / "elsewhere")
    html = write_report(results).read_text(encoding="utf-8")
    assert "no reason recorded" in html
    assert 'id="sortable"' in html
    assert 'id="curves"' not in html
    assert 'id="gallery"' not in html


def test_data_without_a_category_and_figures_left_undefined_are_shown(tmp_path) -> None:
    results = make_results(tmp_path, categories=["parts"])
    rows = pd.read_csv(results / "results.csv")
    rows["category"] = ""
    rows.loc[rows["model"] == "Newcomer", ["IAP", "pixel_AP"]] = float("nan")
    rows.to_csv(results / "results.csv", index=False)
    page = write_report(results)
    assert '<tr data-place="MVTecAD">' in page.read_text(encoding="utf-8")
    row = next(line for line in (page.parent / "table_3_instance.md").read_text().splitlines() if "| MVTecAD" in line)
    assert row.endswith("| — |")


def spoil(folder: Path, text: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    if text is not None:
        (folder / "results.csv").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, r"There is no results\.csv in .*: give the folder into which `anomalib benchmark` wrote\.$"),
        ("", r"results\.csv cannot be read \(.*\): delete it and run the benchmark again"),
        ("job,model\nx,y\n", r"results\.csv lacks the columns dataset, category, status, seed, .*: delete it"),
    ],
)
def test_unusable_results_are_refused_in_a_sentence(tmp_path, capsys, text, expected) -> None:
    results = spoil(tmp_path / "run", text)
    with pytest.raises(ValueError, match=expected):
        write_report(results)
    with pytest.raises(SystemExit) as exit_info:
        main([str(results)])
    assert exit_info.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_figure_that_is_no_number_is_refused(tmp_path) -> None:
    results = make_results(tmp_path)
    text = (results / "results.csv").read_text().replace("0.9,", "zero,", 1)
    with pytest.raises(ValueError, match="zero"):
        write_report(spoil(results, text))


def test_results_without_rows_are_refused(tmp_path) -> None:
    results = make_results(tmp_path)
    header = (results / "results.csv").read_text().splitlines()[0]
    with pytest.raises(ValueError, match="has no rows"):
        write_report(spoil(results, header + "\n"))


def test_the_command_says_where_the_page_is(tmp_path, capsys, monkeypatch) -> None:
    results = make_results(tmp_path)
    monkeypatch.setattr(sys, "argv", ["destseg_anomalib", "report", str(results)])
    runpy.run_module("destseg_anomalib", run_name="__main__")
    assert capsys.readouterr().out.strip() == str(results / "report" / "report.html")
