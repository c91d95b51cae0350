# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a terminal shows of a benchmark."""

import json
from collections.abc import Sequence
from datetime import timedelta
from statistics import mean
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from destseg_anomalib.benchmark.job import ProtocolJob


class JobProgress(Progress):
    """A line for each job that ends, and a last one: jobs done, running, failed, and the time left.

    Args:
        jobs: All jobs of the benchmark, in the order in which they are started.
        slots: How many run at a time.
    """

    def __init__(self, jobs: "Sequence[ProtocolJob]", slots: int) -> None:
        super().__init__(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs, {task.fields[failed]} failed, {task.fields[left]}, running: {task.description}"),
            TimeElapsedColumn(),
        )
        self.slots = slots
        self.seconds: dict[str, list[float]] = {}
        self.waiting = [job for job in jobs if not job.is_finished]
        done = [job for job in jobs if job.is_finished]
        for job in done:
            self._learn(job)
        self.failed = 0
        self.task_id = self.add_task("", total=len(jobs), completed=len(done), failed=0, left="")
        if done:
            self.console.print(f"{len(done)} of {len(jobs)} jobs were finished before and are not repeated.")
        self._show()

    def end(self, job: "ProtocolJob") -> None:
        """Count a job that has ended.

        Args:
            job: It; its result has been written.
        """
        self.waiting.remove(job)
        result = job.result or {}
        row = result.get("row", {})
        if result.get("status") == "finished":
            self._learn(job)
            figures = ", ".join(f"{name} {row[name]:.3f}" for name in ("image_AUROC", "pixel_AP", "IAP") if name in row)
            self.console.print(f"finished {job.id}: {figures}", highlight=False)
        else:
            self.failed += 1
            reason = (result.get("traceback", "").strip().splitlines() or ["?"])[-1]
            self.console.print(f"[bold]failed[/] {job.id}: {escape(reason)}", highlight=False)
        self.advance(self.task_id)
        self._show()

    def _show(self) -> None:
        running = ", ".join(job.id for job in self.waiting[: self.slots])
        self.update(self.task_id, description=running or "none", failed=self.failed, left=self._left())

    def _learn(self, job: "ProtocolJob") -> None:
        row = (job.result or {})["row"]
        self.seconds.setdefault(_model(job), []).append(row["fit_seconds"] + row["test_seconds"])

    def _left(self) -> str:
        """Estimate the time left, a job of a model taking as long as others of it have, or as an average one."""
        if not self.seconds:
            return "time left not known yet"
        average = mean(second for seconds in self.seconds.values() for second in seconds)
        left = sum(mean(self.seconds.get(_model(job), [average])) for job in self.waiting) / self.slots
        return f"{timedelta(seconds=round(left))} left"


def _model(job: "ProtocolJob") -> str:
    """A job's model with all its arguments, which decide how long it takes."""
    return json.dumps(job.config["model"], sort_keys=True)
