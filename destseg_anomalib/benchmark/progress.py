# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a terminal shows of a benchmark."""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import mean
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from destseg_anomalib.benchmark.steps import read_steps

if TYPE_CHECKING:
    from destseg_anomalib.benchmark.job import ProtocolJob

KNOWN = 0.05  # of a training, from which on it tells how long the whole takes


class JobProgress(Progress):
    """A line for each job that ends, one for each that runs, and a last one: jobs done, failed, and the time left.

    Args:
        jobs: All jobs of the benchmark, in the order in which they are started.
        slots: How many run at a time.
    """

    def __init__(self, jobs: "Sequence[ProtocolJob]", slots: int) -> None:
        super().__init__(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            refresh_per_second=2,
        )
        self.slots = slots
        self.seconds: dict[str, list[float]] = {}
        self.waiting = [job for job in jobs if not job.is_finished]
        self.running: dict[str, tuple[TaskID, float]] = {}  # line and start of a job, by its name
        done = [job for job in jobs if job.is_finished]
        for job in done:
            self._learn(job)
        self.failed = 0
        self.all_jobs = self.add_task("", total=len(jobs), completed=len(done))
        if done:
            self.console.print(f"{len(done)} of {len(jobs)} jobs were finished before and are not repeated.")
        self._begin()

    def end(self, job: "ProtocolJob") -> None:
        """Count a job that has ended.

        Args:
            job: It; its result has been written.
        """
        with self._lock:  # what draws is a thread of its own
            self.waiting.remove(job)
            line, _ = self.running.pop(job.id, (None, 0.0))
            if line is not None:
                self.remove_task(line)
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
        self.advance(self.all_jobs)
        self._begin()

    def _begin(self) -> None:
        """Give the jobs that are started now a line and a start; the terminal is drawn on the way."""
        for job in self.waiting[: self.slots]:
            if job.id not in self.running:
                self.running[job.id] = self.add_task(job.id, total=None), monotonic()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Look at the running jobs whenever the terminal is drawn anew."""
        if self.tasks:
            self._count()
        return super().get_renderables()

    def _count(self) -> None:
        left: float | None = 0.0
        with self._lock:
            for job in self.waiting:
                seconds = self._look(job) if job.id in self.running else self._expected(job)
                left = None if left is None or seconds is None else left + seconds
        time_left = "time left not known yet" if left is None else f"{timedelta(seconds=round(left / self.slots))} left"
        self.update(self.all_jobs, description=f"jobs, {self.failed} failed, {time_left}")

    def _look(self, job: "ProtocolJob") -> float | None:
        """Show where a running job is, and estimate the seconds that it still needs."""
        line, start = self.running[job.id]
        steps = read_steps(job.folder)
        if steps is not None:
            name = f"{job.id}: {steps.doing}"
            self.update(line, description=name, completed=steps.done, total=steps.total or None)
        passed, share = monotonic() - start, 0.0 if steps is None else steps.share
        whole = passed / share if share > KNOWN else self._expected(job)
        return None if whole is None else max(whole - passed, 0.0)

    def _learn(self, job: "ProtocolJob") -> None:
        row = (job.result or {})["row"]
        self.seconds.setdefault(_model(job), []).append(row["fit_seconds"] + row["test_seconds"])

    def _expected(self, job: "ProtocolJob") -> float | None:
        """Seconds of a whole job: as long as others of its model have taken, or as an average one."""
        known = self.seconds.get(_model(job)) or [second for seconds in self.seconds.values() for second in seconds]
        return mean(known) if known else None


def _model(job: "ProtocolJob") -> str:
    """A job's model with all its arguments, which decide how long it takes."""
    return json.dumps(job.config["model"], sort_keys=True)
