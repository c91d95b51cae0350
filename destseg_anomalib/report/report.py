# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The report of a benchmark: the papers' tables as Markdown and CSV, and one page with everything."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from destseg_anomalib.report.page import render
from destseg_anomalib.report.records import read_failures, read_rows
from destseg_anomalib.report.tables import LAYOUTS, compare, markdown, select, summarise, to_markdown


def write_report(results_dir: Path) -> Path:
    """Write a benchmark's report into its folder ``report``, over an earlier one.

    The report consists of ``report.html``, which needs no other file and no network; of each of the papers' tables as
    ``.md`` and ``.csv``, in percent as in the papers; of ``summary.csv``, with every figure and cost of every model;
    and, where jobs failed, of ``failed.md``.

    Args:
        results_dir: The folder into which ``anomalib benchmark`` wrote; it holds ``results.csv``.

    Returns:
        The page.

    Raises:
        ValueError: If ``results.csv`` is missing or unusable.
    """
    rows = read_rows(results_dir)
    summary = summarise(rows)
    compared = compare(summary)
    folder = results_dir / "report"
    folder.mkdir(exist_ok=True)
    summary.to_csv(folder / "summary.csv", index=False)
    for layout in LAYOUTS:
        (folder / f"{layout.name}.md").write_text(to_markdown(layout, compared), encoding="utf-8")
        select(layout, compared).to_csv(folder / f"{layout.name}.csv", index=False)
    failures = read_failures(results_dir, rows)
    lines = [
        "# Failed jobs",
        "",
        *(f"- `{job}`: {markdown(reason) or 'no reason recorded'}" for job, reason, _ in failures),
        "",
    ]
    if failures:
        (folder / "failed.md").write_text("\n".join(lines), encoding="utf-8")
    else:
        (folder / "failed.md").unlink(missing_ok=True)
    page = folder / "report.html"
    page.write_text(render(results_dir, rows, summary, compared, failures), encoding="utf-8")
    return page


def main(arguments: Sequence[str]) -> None:
    """Run ``python -m destseg_anomalib report RESULTS``.

    Args:
        arguments: What stands behind ``report``.
    """
    parser = argparse.ArgumentParser(
        prog="python -m destseg_anomalib report", description="Write tables and a page about a benchmark."
    )
    parser.add_argument("results", type=Path, help="the folder into which `anomalib benchmark` wrote")
    results = parser.parse_args(arguments).results
    try:
        page = write_report(results)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(page)  # noqa: T201 - the answer to the command
