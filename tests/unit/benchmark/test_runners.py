# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Processes share the devices, and one that dies takes nothing with it."""

import os
import signal
from pathlib import Path

import pytest

from destseg_anomalib.benchmark.grid import Protocol, ProtocolJobGenerator
from destseg_anomalib.benchmark.job import ProtocolJob
from destseg_anomalib.benchmark.runners import ProcessRunner
from destseg_anomalib.report.results import write_result


class SmallJob(ProtocolJob):
    """A job that notes its GPU, and with seed 1 is killed by the system."""

    def run(self, task_id: int | None = None) -> dict:
        if self.config["seed"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        row = {"job": self.id, "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
        write_result(self.folder, {"status": "finished", "config": self.config, "row": row})
        return row


@pytest.fixture
def jobs(tmp_path) -> list[SmallJob]:
    common = {"model": {"class_path": "Padim"}, "data": {"class_path": "MVTecAD"}}
    return [SmallJob(common | {"seed": seed}, tmp_path / "jobs") for seed in range(4)]


def runner(results: Path, **options: object) -> ProcessRunner:
    return ProcessRunner(ProtocolJobGenerator("auto", Protocol(), results), results, **options)


def test_a_process_that_is_killed_is_a_failed_job_and_the_others_go_on(tmp_path, jobs) -> None:
    serial = runner(tmp_path)
    assert serial.prepare() == 1
    assert [job.id for job in serial.execute(jobs)] == [job.id for job in jobs]
    assert [job.result["status"] for job in jobs] == ["finished", "failed", "finished", "finished"]
    assert "ended with exit code -9" in jobs[1].result["traceback"]
    assert jobs[1].result["row"]["seed"] == 1


def test_at_any_time_a_gpu_has_one_job(tmp_path, jobs) -> None:
    gpus = runner(tmp_path, devices=["3", "5"])
    assert gpus.prepare() == 2
    taken: list[str] = []

    class Process:
        """Stands for a process with a GPU, which this machine may lack; it ends when it is waited for."""

        exitcode = 0

        def __init__(self, target: object, args: tuple, name: str) -> None:
            (self.job,) = args
            self.sentinel, self._end = os.pipe()

        def start(self) -> None:
            taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
            self.job.config["seed"] = 0
            self.job.run()
            os.close(self._end)

        def join(self) -> None:
            os.close(self.sentinel)

    gpus.processes = type("Context", (), {"Process": Process})
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    assert len(list(gpus.execute(jobs))) == 4
    assert sorted(taken) == ["3", "3", "5", "5"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
