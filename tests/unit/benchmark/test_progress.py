# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A benchmark shows where its jobs are, and a time left that counts down."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from destseg_anomalib.benchmark import progress, steps
from destseg_anomalib.benchmark.progress import JobProgress
from destseg_anomalib.benchmark.steps import Steps, StepsFile, read_steps


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in one number, which passes when a test adds to it."""
    now = [0.0]
    for module in (progress, steps):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def trainer_at(batch: int, **arguments: object) -> SimpleNamespace:
    loop = SimpleNamespace(total_batch_idx=batch - 1)
    defaults = {"max_steps": -1, "max_epochs": None, "num_training_batches": 10, "accumulate_grad_batches": 1}
    return SimpleNamespace(fit_loop=loop, num_test_batches=[4], **(defaults | arguments))


class Job(SimpleNamespace):
    """A job of a benchmark, as far as its progress is concerned."""

    def __init__(self, folder: Path, name: str, model: str = "Padim") -> None:
        super().__init__(id=name, folder=folder / name, config={"model": model}, result=None, is_finished=False)
        self.folder.mkdir()

    def end(self, seconds: float) -> None:
        self.result = {"status": "finished", "row": {"fit_seconds": seconds, "test_seconds": 0.0, "IAP": 0.5}}
        self.is_finished = True


@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        ({"max_steps": 60}, 60),
        ({"max_steps": 60, "accumulate_grad_batches": 2}, 120),
        ({"max_epochs": 3}, 30),
        ({"max_epochs": -1}, 0),
        ({"max_epochs": 3, "num_training_batches": float("inf")}, 0),
        ({}, 0),
    ],
)
def test_all_batches_of_a_training_are_counted_where_their_number_is_known(tmp_path, arguments, total) -> None:
    StepsFile(tmp_path).on_train_batch_end(trainer_at(7, **arguments), None)
    assert read_steps(tmp_path) == Steps("training", 7, total)


def test_what_is_written_is_seldom_and_gone_with_the_stage(tmp_path, clock) -> None:
    written = StepsFile(tmp_path)
    for batch, passed in ((1, 0.0), (2, 0.1), (3, 1.0)):
        clock[0] += passed
        written.on_train_batch_end(trainer_at(batch, max_steps=5), None)
        assert read_steps(tmp_path).done == (1 if batch < 3 else 3)
    clock[0] += 1
    written.on_test_batch_end(trainer_at(5), None, None, None, 1)
    assert read_steps(tmp_path) == Steps("testing", 2, 4)
    written.on_exception(None, None, ValueError())
    assert read_steps(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def shown(bar: JobProgress) -> str:
    text = io.StringIO()
    console = Console(file=text, width=160)
    console.print(*bar.get_renderables())
    return " ".join(text.getvalue().split())


def test_a_running_job_shows_its_steps_and_the_time_left_counts_down(tmp_path, clock) -> None:
    jobs = [Job(tmp_path, "first"), Job(tmp_path, "second")]
    bar = JobProgress(jobs, slots=1)
    assert "0/2 jobs, 0 failed, time left not known yet" in shown(bar)
    clock[0] = 30.0
    StepsFile(jobs[0].folder).on_train_batch_end(trainer_at(30, max_steps=60), None)
    assert "30/60 first: training" in shown(bar)
    assert "time left not known yet" in shown(bar), "nothing is known of the second job"
    jobs[0].end(60.0)
    bar.end(jobs[0])
    assert "1/2 jobs, 0 failed, 0:01:00 left" in shown(bar)
    assert "first" not in shown(bar)
    clock[0] += 20
    assert "0:00:40 left" in shown(bar)
    clock[0] += 20
    StepsFile(jobs[1].folder).on_train_batch_end(trainer_at(10, max_steps=30), None)
    assert "0:01:20 left" in shown(bar), "its own steps tell more than the job of before"
    clock[0] += 1
    StepsFile(jobs[1].folder).on_test_batch_end(trainer_at(0), None, None, None, 0)
    assert "second: testing" in shown(bar)
    assert "0:00:00 left" in shown(bar)


def test_a_terminal_is_drawn_while_jobs_begin_and_end(tmp_path, clock, monkeypatch) -> None:
    jobs, terminal = [Job(tmp_path, "first"), Job(tmp_path, "second")], io.StringIO()
    bar = JobProgress(jobs, slots=1)
    monkeypatch.setattr(bar.console, "_file", terminal)  # of the console that all share
    with bar:
        bar.refresh()
        jobs[0].end(60.0)
        bar.end(jobs[0])
        bar.refresh()
    assert "finished first: IAP 0.500" in terminal.getvalue()


def test_jobs_that_run_beside_each_other_share_the_time(tmp_path, clock) -> None:
    jobs = [Job(tmp_path, name) for name in ("done", "a", "b", "c")]
    jobs[0].end(100.0)
    bar = JobProgress(jobs, slots=2)
    assert "1/4 jobs, 0 failed, 0:02:30 left" in shown(bar)
    clock[0] += 50
    assert "0:01:40 left" in shown(bar)
