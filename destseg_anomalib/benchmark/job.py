# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""One job of a benchmark: train a model, test it, measure it, write it down."""

import logging
import shutil
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from anomalib.pipelines.components import Job
from lightning import seed_everything

from destseg_anomalib.benchmark.measure import Predictions, TrainingSpeed, environment, latency, peak_memory_mib
from destseg_anomalib.benchmark.protocol import build_datamodule, build_model
from destseg_anomalib.benchmark.steps import StepsFile
from destseg_anomalib.data.reading import DataCheck, check_folder
from destseg_anomalib.report.results import job_identity, job_name, read_result, write_result

logger = logging.getLogger(__name__)


class ProtocolJob(Job):
    """A model on a category with a seed.

    Args:
        config: `model`, `data`, `seed`, `accelerator`, `image_size` and `latency_seconds`, as plain as JSON; equal
            configurations are the same job.
        jobs: Folder that holds a folder for every job.
    """

    name = "benchmark"

    def __init__(self, config: dict[str, Any], jobs: Path) -> None:
        self.config = config
        self.folder = jobs / job_name(config)

    @property
    def id(self) -> str:
        """Name of the job and of its folder."""
        return self.folder.name

    @property
    def result(self) -> dict[str, Any] | None:
        """What became of it, None if it has not ended yet."""
        return read_result(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether it need not run again."""
        result = self.result
        return result is not None and result["status"] == "finished" and result["config"] == self.config

    def clear(self) -> None:
        """Forget an earlier attempt."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Run the job and write its folder; an exception becomes a failed result.

        Args:
            task_id: Not used; a job takes the first device that its process sees.

        Returns:
            The result.
        """
        del task_id
        # Seeds come before everything that may draw: bundled models draw while they are built.
        seed_everything(self.config["seed"], workers=True, verbose=False)
        try:
            self._write("finished", self._measure())
        except Exception as error:  # whatever a model may raise, the other jobs go on
            logger.exception("Job %s failed.", self.id)
            self.fail("".join(traceback.format_exception(error)))
        return self.result or {}

    def fail(self, reason: str) -> None:
        """Record that the job did not come to its end.

        Args:
            reason: A traceback, or what is known.
        """
        self._write("failed", environment(), traceback=reason)

    def _write(self, status: str, row: dict[str, Any], **more: str) -> None:
        row = {"job": self.id, **job_identity(self.config), "status": status, **row}
        write_result(self.folder, {"status": status, "config": self.config, "row": row, **more})

    def _measure(self) -> dict[str, Any]:
        """Train, test and time; write what is shown of the predictions."""
        spec, size = self.config["model"], self.config["image_size"]
        model = build_model(spec, size and tuple(size))
        datamodule = build_datamodule(self.config["data"])
        datamodule.prepare_data()  # what is to be fetched comes before the names of files are looked at
        check_folder(datamodule)
        wishes = spec.get("trainer", {})
        ignored = [key for key, value in model.trainer_arguments.items() if wishes.get(key, value) != value]
        if ignored:
            msg = (
                f"{model.name} sets {', '.join(ignored)} of the trainer itself: say in its init_args what it shall do."
            )
            raise ValueError(msg)
        predictions, speed = Predictions(), TrainingSpeed()
        with TemporaryDirectory() as scratch:
            engine = Engine(
                accelerator=self.config["accelerator"],
                devices=1,
                default_root_dir=scratch,
                callbacks=[predictions, speed, StepsFile(self.folder), DataCheck()],
                enable_progress_bar=False,
                enable_model_summary=False,
                **wishes,
            )
            start = perf_counter()
            engine.fit(model, datamodule=datamodule)
            trained = perf_counter()
            (figures,) = engine.test(model, datamodule=datamodule, verbose=False)
            tested = perf_counter()
            predictions.write(self.folder)
            _keep_tables(Path(engine.trainer.default_root_dir) / "images", self.folder)
        device = engine.trainer.strategy.root_device
        row: dict[str, Any] = {
            **figures,
            "fit_seconds": trained - start,
            "test_seconds": tested - trained,
            "train_images_per_second": speed.images_per_second,
            "peak_memory_mib": peak_memory_mib(device),  # of what a user would do, hence before batches of 32
        }
        for batch_size in (1, 32):
            row |= latency(model, engine.trainer, batch_size, self.config["latency_seconds"])
        return row | environment(device)

    @staticmethod
    def collect(results: list[dict[str, Any]]) -> pd.DataFrame:
        """Make a table of results.

        Args:
            results: Results of jobs.

        Returns:
            Their rows.
        """
        return pd.DataFrame([result["row"] for result in results])

    @staticmethod
    def save(results: pd.DataFrame) -> None:
        """Do nothing: each job was written when it ended."""


def _keep_tables(images: Path, folder: Path) -> None:
    """Keep the evaluator's tables of instances and of their curve, which are missing for data without masks."""
    if (images / "instances.csv").is_file():
        shutil.copy(images / "instances.csv", folder)
        curve = pd.read_csv(images / "iap_curve.csv", usecols=["instance_recall", "precision"])
        curve.to_csv(folder / "curve.csv", index=False)
