# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a configuration with `protocol:` asks for: its settings, and the jobs of its grid.

anomalib imports this module while its own command line is still being made. So what needs models is imported later.
"""

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anomalib.pipelines.components.base import JobGenerator
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from jsonargparse import ArgumentError, ArgumentParser

if TYPE_CHECKING:
    from destseg_anomalib.benchmark.job import ProtocolJob

MODEL_KEYS = {"class_path", "init_args", "name", "data", "trainer", "backbone_weights", "textures"}
JOB_DECIDES = {"accelerator", "devices", "default_root_dir", "callbacks", "enable_progress_bar", "enable_model_summary"}


@dataclass(frozen=True)
class Protocol:
    """The section `protocol:` of a configuration.

    Args:
        results: Folder of results; None means `results/benchmark/<name of the configuration file>`.
        image_size: Height and width in pixels at which all models see images; None for each one's own.
        latency_seconds: How long latency is measured, for each batch size.
        runner: `serial`, one job at a time; `gpus`, one at a time on each GPU; `ray`; None for `gpus` where there are
            several and else `serial`.
        address: Ray cluster to use, such as `auto`; None starts one on this machine.
        num_cpus: CPUs that Ray reserves for a job.
        num_gpus: GPUs that Ray reserves for a job; None means 1 where the cluster has any and they are to be used.
        max_retries: How often Ray tries a job again whose worker has died.
    """

    results: str | None = None
    image_size: tuple[int, int] | None = None
    latency_seconds: float = 3.0
    runner: Literal["serial", "gpus", "ray"] | None = None
    address: str | None = None
    num_cpus: float = 1
    num_gpus: float | None = None
    max_retries: int = 3


def read_protocol(section: dict[str, Any] | None) -> Protocol:
    """Check the section `protocol:`.

    Args:
        section: What the configuration says; None and {} mean the defaults.

    Returns:
        The settings.

    Raises:
        ValueError: If a key is unknown or a value has the wrong type.

    Example:
        >>> read_protocol({"image_size": [128, 128]}).image_size
        (128, 128)
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Protocol)
    try:
        return Protocol(**parser.parse_object(section or {}).as_dict())
    except ArgumentError as error:
        msg = f"protocol: {error}; its keys are {', '.join(Protocol.__dataclass_fields__)}."
        raise ValueError(msg) from error


class ProtocolJobGenerator(JobGenerator):
    """Makes the jobs of a grid, after all of them have been checked.

    Args:
        accelerator: Lightning's name of the kind of device.
        protocol: The settings.
        results: Folder of results.
    """

    def __init__(self, accelerator: str, protocol: Protocol, results: Path) -> None:
        self.accelerator = accelerator
        self.results = results
        self.common = {
            "accelerator": accelerator,
            "image_size": protocol.image_size,
            "latency_seconds": protocol.latency_seconds,
        }

    @property
    def job_class(self) -> "type[ProtocolJob]":
        """Class of the jobs."""
        from destseg_anomalib.benchmark.job import ProtocolJob  # noqa: PLC0415 - see the module

        return ProtocolJob

    def generate_jobs(
        self, args: dict[str, Any] | None = None, prev_stage_result: object = None
    ) -> "Generator[ProtocolJob, None, None]":
        """Make a job for each cell of the grid over models, data and seeds.

        Args:
            args: The section `benchmark:`, with `model`, `data` and `seed`, each of them or parts of it as a `grid:`.
            prev_stage_result: Not used.

        Yields:
            Jobs; equal cells make one job.

        Raises:
            ValueError: If a cell cannot be built.
        """
        del prev_stage_result
        seen, checked = set(), set()
        for cell in get_iterator_from_grid_dict(args or {}):
            config = _job_config(cell, self.common)
            for kind in ("model", "data"):
                part = json.dumps([kind, config[kind]])
                if part not in checked:  # the same model is in many cells, and takes tens of milliseconds
                    _check(kind, config[kind])
                    checked.add(part)
            job = self.job_class(config, self.results / "jobs")
            if job.id not in seen:
                seen.add(job.id)
                yield job


def _job_config(cell: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Make the configuration of a job out of a cell of the grid."""
    if not {"model", "data", "seed"} <= set(cell):
        msg = f"benchmark: needs model, data and seed, but has {', '.join(cell) or 'nothing'}: add what is missing."
        raise ValueError(msg)
    model, data = dict(cell["model"]), dict(cell["data"])
    wrong = sorted((set(model) - MODEL_KEYS) | (set(model.get("trainer", {})) & JOB_DECIDES))
    if wrong:
        keys = ", ".join(sorted(MODEL_KEYS))
        msg = f"{', '.join(wrong)} cannot be set for {model.get('class_path')}: the keys of a model are {keys}."
        raise ValueError(msg)
    # Batch sizes and the like that belong to a model's schedule.
    data["init_args"] = {**data.get("init_args", {}), **model.pop("data", {})}
    # As it will be read back from a file, so that it compares equal.
    return dict(json.loads(json.dumps({"model": model, "data": data, "seed": cell["seed"], **common}, default=str)))


def _check(kind: str, part: dict[str, Any]) -> None:
    """Check a model or data, so that a slip is found before the first job and not in the night of the last."""
    from anomalib.data import AnomalibDataModule  # noqa: PLC0415 - see the module
    from anomalib.models import AnomalibModule  # noqa: PLC0415

    from destseg_anomalib.benchmark.protocol import find_class, parse_arguments  # noqa: PLC0415

    base: type = {"model": AnomalibModule, "data": AnomalibDataModule}[kind]
    parse_arguments(find_class(base, part.get("class_path", "")), part.get("init_args", {}))
