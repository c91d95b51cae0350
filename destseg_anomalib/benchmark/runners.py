# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Who runs the jobs: processes of this machine, one after another or one a GPU, or the workers of a Ray cluster.

Every job has a process of its own. Its peak memory is then its own and not that of the largest job before it, nothing
random is left over from an earlier job, and when the system kills one for want of memory, the rest goes on.
"""

import json
import multiprocessing
import os
import sys
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

import pandas as pd
import torch
from anomalib.pipelines.components.base import Runner

from destseg_anomalib.benchmark.job import ProtocolJob
from destseg_anomalib.benchmark.progress import JobProgress
from destseg_anomalib.report.results import RESULT_FILE, write_result, write_table

if TYPE_CHECKING:
    from destseg_anomalib.benchmark.grid import Protocol, ProtocolJobGenerator


class ProtocolRunner(Runner):
    """Runs the jobs that are not finished, and writes the table after each.

    Args:
        generator: Makes the jobs.
        results: Folder of results.
    """

    generator: "ProtocolJobGenerator"

    def __init__(self, generator: "ProtocolJobGenerator", results: Path) -> None:
        super().__init__(generator)
        self.results = results

    def run(self, args: dict[str, Any], prev_stage_results: object = None) -> pd.DataFrame:
        """Run a grid of jobs.

        Args:
            args: The section `benchmark:` of a configuration.
            prev_stage_results: Not used.

        Returns:
            The table of all jobs of the grid, which is also in `results.csv`.

        Raises:
            ValueError: If a job cannot be built.
        """
        jobs = list(self.generator(args, prev_stage_results))
        waiting = [job for job in jobs if not job.is_finished]
        table = self._write_table(jobs)
        if waiting:
            slots = self.prepare()
            with JobProgress(jobs, slots) as progress, closing(self.execute(waiting)) as ended:
                for job in ended:
                    table = self._write_table(jobs)
                    progress.end(job)
        return table

    @abstractmethod
    def prepare(self) -> int:
        """Get ready.

        Returns:
            How many jobs will run at a time.
        """

    @abstractmethod
    def execute(self, jobs: Sequence[ProtocolJob]) -> Generator[ProtocolJob, None, None]:
        """Run jobs.

        Args:
            jobs: Jobs, started in this order.

        Yields:
            Each job when its result is written, whatever it is.
        """

    def _write_table(self, jobs: Sequence[ProtocolJob]) -> pd.DataFrame:
        results = [job.result for job in jobs]
        return write_table(self.results / "results.csv", [result["row"] for result in results if result])


class ProcessRunner(ProtocolRunner):
    """Runs jobs on this machine, at any time one on each device.

    Args:
        generator: Makes the jobs.
        results: Folder of results.
        devices: GPUs as in `CUDA_VISIBLE_DEVICES`, or `[None]` for one job at a time wherever Lightning puts it.
    """

    def __init__(
        self, generator: "ProtocolJobGenerator", results: Path, devices: Sequence[str | None] = (None,)
    ) -> None:
        super().__init__(generator, results)
        self.devices = devices
        # A job that is forked from a server need not import the libraries again, which takes longer than some jobs.
        # Not beside a GPU: it cannot be used in a fork of a process that has so much as counted the GPUs.
        forks = sys.platform == "linux" and not torch.accelerator.is_available()
        self.processes: Any = multiprocessing.get_context("forkserver" if forks else "spawn")

    def prepare(self) -> int:
        """Have the libraries imported where the jobs will be forked."""
        self.processes.set_forkserver_preload([__name__])
        return len(self.devices)

    def execute(self, jobs: Sequence[ProtocolJob]) -> Generator[ProtocolJob, None, None]:
        """Run jobs in processes of their own."""
        waiting, free = deque(jobs), list(self.devices)
        running: dict[Any, tuple[Any, ProtocolJob, str | None]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    job, device = waiting.popleft(), free.pop(0)
                    job.clear()
                    process = self.processes.Process(target=_run_alone, args=(job,), name=job.id)
                    # Not by the trainer's `devices`: models such as Patchcore overrule it with the first one.
                    with mock.patch.dict(os.environ, {} if device is None else {"CUDA_VISIBLE_DEVICES": device}):
                        process.start()
                    running[process.sentinel] = process, job, device
                for sentinel in wait(list(running)):
                    process, job, device = running.pop(sentinel)
                    process.join()
                    if job.result is None:
                        job.fail(f"The process of the job ended with exit code {process.exitcode}; see log.txt.")
                    free.append(device)
                    yield job
        finally:
            for process, _, _ in running.values():
                process.terminate()


def _run_alone(job: ProtocolJob) -> None:
    """Run a job in this process, which is for nothing else."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A job does not outlive a benchmark that was killed, and so never meets its own second attempt.
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    log = (job.folder / "log.txt").open("w")
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    job.run()


class RayRunner(ProtocolRunner):
    """Runs jobs as tasks of Ray, on this machine or on a cluster.

    Results travel through Ray, so the machines need not share a disk for them; data, weights and textures have to be
    at the same paths everywhere.

    Args:
        generator: Makes the jobs.
        results: Folder of results, on the machine that starts the benchmark.
        protocol: The settings of Ray.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, generator: "ProtocolJobGenerator", results: Path, protocol: "Protocol") -> None:
        super().__init__(generator, results)
        try:
            import ray  # noqa: PLC0415 - an extra
        except ImportError as error:
            msg = "runner: ray needs Ray, which is not installed: pip install 'destseg-anomalib[ray]'."
            raise ImportError(msg) from error
        self.ray = ray
        self.protocol = protocol

    def prepare(self) -> int:
        """Connect to the cluster, or start one on this machine.

        Raises:
            ValueError: If a cluster on this machine can never run a job.
        """
        if not self.ray.is_initialized():
            self.ray.init(address=self.protocol.address, log_to_driver=False)
        have = self.ray.cluster_resources()
        gpus = self.protocol.num_gpus
        if gpus is None:
            gpus = 1 if "GPU" in have and self.generator.accelerator != "cpu" else 0
        self.resources = {"num_cpus": self.protocol.num_cpus, "num_gpus": gpus}
        wants = {"CPU": self.protocol.num_cpus, "GPU": gpus}
        slots = min(int(have.get(kind, 0) // need) for kind, need in wants.items() if need)
        if not slots and self.protocol.address is None:  # an existing cluster may still grow
            msg = f"A job needs {wants}, and this machine has {have}: lower num_cpus or num_gpus of the protocol."
            raise ValueError(msg)
        return max(slots, 1)

    def execute(self, jobs: Sequence[ProtocolJob]) -> Generator[ProtocolJob, None, None]:
        """Run jobs as Ray tasks; Ray starts a task again whose worker has died."""
        # A new worker for every task, so that a job has its process for itself here too.
        task = self.ray.remote(max_calls=1, max_retries=self.protocol.max_retries, **self.resources)(_run_remotely)
        running = {task.remote(job): job for job in jobs}
        try:
            while running:
                (reference, *_), _ = self.ray.wait(list(running))
                job = running.pop(reference)
                job.clear()
                try:
                    files = self.ray.get(reference)
                except self.ray.exceptions.RayError as error:  # the worker died too often
                    job.fail(str(error))
                else:
                    _unpack(files, job.folder)
                yield job
        finally:
            for reference in running:
                self.ray.cancel(reference, force=True)


def _run_remotely(job: ProtocolJob) -> dict[str, bytes]:
    """Run a job in a worker of Ray and hand over its folder, result last."""
    with TemporaryDirectory() as scratch:
        job.folder = Path(scratch) / job.id
        job.clear()
        job.run()
        files = sorted(path for path in job.folder.rglob("*") if path.is_file())
        files.sort(key=lambda path: path.name == RESULT_FILE)
        return {path.relative_to(job.folder).as_posix(): path.read_bytes() for path in files}


def _unpack(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():  # the result last, as it is packed
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == RESULT_FILE:
            write_result(folder, json.loads(content))
        else:
            path.write_bytes(content)
