# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""`anomalib benchmark` with the papers' protocol, registered at the end.

anomalib imports this module while its own command line is still being made. So what needs models is imported later.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.cli import pipelines
from anomalib.pipelines import Benchmark as AnomalibBenchmark
from jsonargparse import Namespace

from destseg_anomalib.benchmark.grid import ProtocolJobGenerator, read_protocol

if TYPE_CHECKING:
    from destseg_anomalib.benchmark.runners import ProtocolRunner

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")


class Benchmark(AnomalibBenchmark):
    """Run benchmarking pipeline for model evaluation.

    A configuration without `protocol:` is anomalib's business alone. With it, every job is evaluated as in the papers
    and written when it ends; a second run does what is left; the exit code is 1 if a job failed.

    Example:
        >>> from anomalib.cli.pipelines import PIPELINE_REGISTRY
        >>> PIPELINE_REGISTRY["benchmark"] is Benchmark
        True
    """

    def run(self, args: Namespace | None = None) -> None:
        """Run the benchmark.

        Args:
            args: Namespace with `config`, the path of a YAML file; None reads the command line.

        Raises:
            SystemExit: With one sentence, if the configuration cannot be run or a job failed.
        """
        arguments = self.get_parser().parse_args() if args is None else args
        config = self._get_args(arguments)
        if "protocol" not in config:
            super().run(args)
            return
        try:
            runner = protocol_runner(config, default_name=Path(arguments.config).stem)
            table = runner.run(config.get("benchmark") or {})
        except (ValueError, ImportError, ConnectionError) as error:
            msg = f"anomalib benchmark: {error}"
            raise SystemExit(msg) from error
        from destseg_anomalib.metrics.last_line import say  # noqa: PLC0415 - see the module
        from destseg_anomalib.report.report import write_report  # noqa: PLC0415 - draws, which only now is needed

        say(f"Report of {len(table)} jobs: {write_report(runner.results)}")
        failed = table["job"][table["status"] == "failed"]
        if len(failed):
            some = ", ".join([*failed[:5], *(["..."] if len(failed) > 5 else [])])
            msg = (
                f"{len(failed)} of {len(table)} jobs failed ({some}): see result.json and log.txt in their folders in "
                f"{runner.results / 'jobs'}, and run again to retry."
            )
            raise SystemExit(msg)


def protocol_runner(config: dict[str, Any], default_name: str) -> "ProtocolRunner":
    """Make the runner that a configuration asks for.

    Args:
        config: Configuration with a `protocol:`.
        default_name: Name of the folder of results where the configuration names none.

    Returns:
        The runner.

    Raises:
        ValueError: If a key or value is wrong.
        ImportError: If Ray is asked for and missing.
    """
    from destseg_anomalib.benchmark.runners import ProcessRunner, RayRunner  # noqa: PLC0415 - see the module

    protocol = read_protocol(config["protocol"])
    accelerator = config.get("accelerator", "auto")
    if isinstance(accelerator, list) and len(accelerator) == 1:
        (accelerator,) = accelerator
    if accelerator not in ACCELERATORS:
        msg = f"accelerator={accelerator} is not one of {', '.join(ACCELERATORS)}: with protocol: name a single one."
        raise ValueError(msg)
    results = Path(protocol.results or f"results/benchmark/{default_name}")
    generator = ProtocolJobGenerator(accelerator, protocol, results)
    if protocol.runner == "ray":
        return RayRunner(generator, results, protocol)
    gpus = [] if accelerator in {"cpu", "mps"} else _visible_gpus()
    if protocol.runner == "gpus" and not gpus:
        msg = f"runner=gpus found no GPU for accelerator={accelerator} on this machine: use runner: serial."
        raise ValueError(msg)
    several = protocol.runner == "gpus" or (protocol.runner is None and len(gpus) > 1)
    return ProcessRunner(generator, results, devices=gpus if several else [None])


def _visible_gpus() -> list[str]:
    """GPUs of this machine that may be used, by their names in `CUDA_VISIBLE_DEVICES`."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


if pipelines.PIPELINE_REGISTRY is not None:
    pipelines.PIPELINE_REGISTRY["benchmark"] = Benchmark
