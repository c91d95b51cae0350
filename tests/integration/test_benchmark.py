# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""`anomalib benchmark` with a protocol: equal figures for all models, nothing lost, the same on every runner."""

import json
import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import cv2
import pandas as pd
import psutil
import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.pipelines import Benchmark as AnomalibBenchmark
from lightning import seed_everything

from destseg_anomalib.benchmark import runners
from destseg_anomalib.benchmark.job import ProtocolJob
from destseg_anomalib.benchmark.pipeline import Benchmark
from destseg_anomalib.report.results import COLUMNS, METRICS
from tests.conftest import make_part_folder

PATCHCORE = {
    "class_path": "Patchcore",
    "init_args": {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1"]},
}
BROKEN = {"class_path": "Patchcore", "init_args": {"backbone": "no_such_backbone"}}


def write_config(folder: Path, models: list[dict], seeds: list[int], **protocol: object) -> Path:
    """A benchmark on `folder/parts`, whose results go to `folder/results`."""
    data = {
        "class_path": "Folder",
        "init_args": {
            "name": "parts",
            "root": str(folder / "parts"),
            "normal_dir": "train/good",
            "normal_test_dir": "test/good",
            "abnormal_dir": "test/hole",
            "mask_dir": "ground_truth/hole",
            "train_batch_size": 4,
            "eval_batch_size": 4,
            "num_workers": 0,
            "val_split_mode": "same_as_test",
        },
    }
    small = {"results": str(folder / "results"), "image_size": [32, 32], "latency_seconds": 0}
    config = {
        "accelerator": "cpu",
        "protocol": small | protocol,
        "benchmark": {"model": {"grid": models}, "seed": {"grid": seeds}, "data": data},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(config: Path) -> pd.DataFrame:
    Benchmark().run(Namespace(config=str(config)))
    return pd.read_csv(yaml.safe_load(config.read_text())["protocol"]["results"] + "/results.csv")


def figures(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    return table.set_index("job")[list(METRICS)].to_dict("index")


@pytest.fixture(scope="module")
def serial(tmp_path_factory, trunk) -> tuple[Path, pd.DataFrame]:
    """Configuration and table of a benchmark of three models that share their backbone's weights."""
    folder = tmp_path_factory.mktemp("serial")
    make_part_folder(folder)
    steps = {"student_steps": 2, "segmentation_steps": 2}
    models = [
        {"class_path": "Patchcore", "init_args": {"backbone": "resnet18", "layers": ["layer1"]}},
        {"class_path": "Stfpm", "trainer": {"max_epochs": 1}},
        {"class_path": "DeSTSeg", "init_args": {"backbone": "resnet18", **steps}},
    ]
    config = write_config(folder, [model | {"backbone_weights": trunk} for model in models], [0])
    return config, run(config)


def test_all_models_get_the_same_figures_and_costs(serial) -> None:
    _, table = serial
    assert list(table["model"]) == ["Patchcore", "Stfpm", "DeSTSeg"]
    assert set(table["status"]) == {"finished"}
    assert [column for column in table.columns if column in COLUMNS] == list(COLUMNS)
    assert not table.drop(columns="git_revision").isna().any(axis=None)
    assert table[list(METRICS)].stack().between(0, 1).all()
    costs = table.loc[:, "fit_seconds":"peak_memory_mib"]
    assert (costs > 0).all(axis=None)


def test_a_job_leaves_its_instances_curve_scores_and_maps(serial) -> None:
    config, table = serial
    folder = config.parent / "results" / "jobs" / table["job"][0]
    result = json.loads((folder / "result.json").read_text())
    assert result["row"]["IAP"] == pytest.approx(table["IAP"][0])
    assert result["config"]["model"]["class_path"] == "Patchcore"
    instances, curve, images = (pd.read_csv(folder / f"{name}.csv") for name in ("instances", "curve", "images"))
    assert {"image", "region", "area", "score", "found"} <= set(instances.columns)
    assert list(curve.columns) == ["instance_recall", "precision"]
    assert curve["precision"].mean() == pytest.approx(table["IAP"][0], abs=1e-6)
    assert list(images.columns) == ["index", "image_path", "mask_path", "label", "score", "map_file"]
    assert list(images["label"]) == [0, 0, 0, 1, 1, 1]
    assert list(images["mask_path"].isna()) == [True, True, True, False, False, False]
    maps = [cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for name in images["map_file"]]
    assert {(image.shape, image.dtype.name) for image in maps} == {((32, 32), "uint8")}
    assert (min(image.min() for image in maps), max(image.max() for image in maps)) == (0, 255)


def test_equal_runs_give_identical_figures_from_the_first_row_on(serial, tmp_path) -> None:
    config, table = serial
    again = tmp_path / "config.yaml"
    again.write_text(config.read_text().replace(str(config.parent / "results"), str(tmp_path / "results")))
    assert figures(run(again)) == figures(table)


def test_only_what_has_changed_runs_again(part_folder) -> None:
    config = write_config(part_folder.parent, [PATCHCORE], [0])
    (first,) = run(config)["job"]
    written = part_folder.parent / "results" / "jobs" / first / "result.json"
    before = written.stat().st_mtime_ns
    changed = PATCHCORE | {"init_args": PATCHCORE["init_args"] | {"num_neighbors": 3}}
    table = run(write_config(part_folder.parent, [PATCHCORE, changed], [0]))
    assert table["job"][0] == first != table["job"][1]
    summary = pd.read_csv(part_folder.parent / "results" / "report" / "summary.csv")
    assert set(summary["model"]) == {"Patchcore", "Patchcore (num_neighbors=3)"}
    assert written.stat().st_mtime_ns == before


def test_a_job_that_raises_leaves_the_other_rows_and_exit_code_1_and_is_tried_again(part_folder, capsys) -> None:
    folder = part_folder.parent
    config = write_config(folder, [BROKEN, PATCHCORE], [0])
    for _ in range(2):
        with pytest.raises(SystemExit, match="1 of 2 jobs failed") as exit_:
            AnomalibCLI(["benchmark", "--config", str(config)])
        assert isinstance(exit_.value.code, str)  # which Python prints, and makes the exit code 1
        table = pd.read_csv(folder / "results" / "results.csv")
        assert list(table["status"]) == ["failed", "finished"]
        failed = json.loads((folder / "results" / "jobs" / table["job"][0] / "result.json").read_text())
        assert "Unknown model (no_such_backbone)" in failed["traceback"]
        assert "Unknown model (no_such_backbone)" in " ".join(capsys.readouterr().out.split())


# What the command does, killed when it has started its third job; it leaves the names of its processes.
KILLED = """
import os, signal
from pathlib import Path
import psutil
from anomalib.cli.cli import main
from destseg_anomalib.benchmark import runners

def wait_or_die(processes, wait=runners.wait, started=[]):
    started.append(processes)
    if len(started) == 3:
        family = psutil.Process().children(recursive=True)
        Path("family").write_text(" ".join(str(process.pid) for process in family))
        os.kill(os.getpid(), signal.SIGKILL)
    return wait(processes)

runners.wait = wait_or_die
main()
"""


def test_a_killed_benchmark_goes_on_where_it_was(forks, part_folder) -> None:
    folder = part_folder.parent
    seeds = [0, 1, 2]
    config = write_config(folder, [PATCHCORE], seeds)
    jobs = folder / "results" / "jobs"
    killed = forks.run(KILLED, "benchmark", "--config", str(config), folder=folder)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    family = [int(process) for process in (folder / "family").read_text().split()]
    assert len(family) > 1  # the job and who forked it
    for process in family:
        while psutil.pid_exists(process):
            time.sleep(0.02)
    finished = {path: path.stat().st_mtime_ns for path in jobs.glob("*/result.json")}
    assert len(finished) == 2  # nobody goes on with the job that was running
    table = run(config)
    assert list(table["seed"]) == seeds
    assert set(table["status"]) == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_ray_runs_all_jobs_though_a_worker_is_killed_and_gives_the_figures_of_the_serial_runner(
    serial, tmp_path, monkeypatch
) -> None:
    ray = pytest.importorskip("ray")
    config, table = serial
    protocol = yaml.safe_load(config.read_text())
    protocol["protocol"] |= {"runner": "ray", "results": str(tmp_path / "results")}
    del protocol["benchmark"]["model"]["grid"][1]  # each job imports everything anew
    with_ray = tmp_path / "ray.yaml"
    with_ray.write_text(yaml.safe_dump(protocol))
    mark = tmp_path / "a worker was killed"

    def run_or_die(job: ProtocolJob) -> dict[str, bytes]:
        from destseg_anomalib.benchmark.runners import _run_remotely

        try:
            mark.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
        return _run_remotely(job)

    monkeypatch.setattr(runners, "_run_remotely", run_or_die)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or whatever else the machine does comes before its workers
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        on_ray = run(with_ray)
    finally:
        ray.shutdown()
    assert mark.exists()
    assert figures(on_ray) == figures(table[table["model"] != "Stfpm"])
    assert len(list((tmp_path / "results" / "jobs").glob("*/maps/5.png"))) == 2


def test_without_ray_a_sentence_names_the_extra(part_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = write_config(part_folder.parent, [PATCHCORE], [0], runner="ray")
    with pytest.raises(SystemExit, match=r"pip install 'destseg-anomalib\[ray\]'"):
        run(config)


def test_a_configuration_without_protocol_behaves_as_with_anomalibs_own_class(part_folder, monkeypatch) -> None:
    monkeypatch.setattr("anomalib.pipelines.components.base.pipeline.redirect_logs", lambda log_file: None)
    # Without the protocol images have 256 pixels a side: few patches, and few of them kept, or it takes a minute.
    small = PATCHCORE["init_args"] | {"layers": ["layer3"], "coreset_sampling_ratio": 0.01}
    config = write_config(part_folder.parent, [PATCHCORE | {"init_args": small}], [0, 1])
    content = yaml.safe_load(config.read_text())
    del content["protocol"]
    config.write_text(yaml.safe_dump(content))
    tables = []
    for pipeline in (AnomalibBenchmark, Benchmark):
        folder = part_folder.parent / pipeline.__module__
        folder.mkdir()
        monkeypatch.chdir(folder)
        seed_everything(0)  # anomalib builds the first model before it has set a seed
        pipeline().run(Namespace(config=str(config)))
        (path,) = folder.glob("runs/benchmark/*/results.csv")
        tables.append(pd.read_csv(path))
    theirs, ours = (table.drop(columns=table.filter(like="duration").columns) for table in tables)
    pd.testing.assert_frame_equal(ours, theirs)
    assert len(ours) == 2
