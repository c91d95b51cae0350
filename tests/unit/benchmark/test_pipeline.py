# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A configuration becomes jobs and a runner, or a sentence before anything has run."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from anomalib.cli.pipelines import PIPELINE_REGISTRY
from anomalib.pipelines import Benchmark as AnomalibBenchmark

from destseg_anomalib.benchmark.grid import Protocol, ProtocolJobGenerator, read_protocol
from destseg_anomalib.benchmark.pipeline import Benchmark, protocol_runner

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIGS = sorted((REPOSITORY / "configs" / "benchmark").glob("*.yaml"))
DATA = {"class_path": "MVTecAD", "init_args": {"category": {"grid": ["bottle", "tile"]}}}


def jobs(models: list[dict], seeds: list[int], data: dict = DATA, **protocol: object) -> list:
    generator = ProtocolJobGenerator("cpu", Protocol(**protocol), Path("results"))
    return list(generator({"model": {"grid": models}, "data": data, "seed": {"grid": seeds}}))


def test_anomalib_runs_our_pipeline() -> None:
    assert PIPELINE_REGISTRY["benchmark"] is Benchmark
    assert issubclass(Benchmark, AnomalibBenchmark)


def test_there_is_a_job_for_every_model_category_and_seed() -> None:
    made = jobs([{"class_path": "Padim"}, {"class_path": "DeSTSeg", "init_args": {"top_t": 50}}], [0, 1, 2])
    assert len({job.id for job in made}) == 12
    assert made[0].id.startswith("Padim-bottle-seed0-")
    assert {job.config["model"].get("init_args", {}).get("top_t") for job in made} == {None, 50}


def test_a_job_is_known_by_its_configuration_and_not_by_where_it_is_written() -> None:
    (one,), (same,) = (jobs([{"class_path": "Padim"}], [0], {"class_path": "MVTecAD"}) for _ in range(2))
    (other,) = jobs([{"class_path": "Padim"}], [0], {"class_path": "MVTecAD"}, image_size=(64, 64))
    assert one.id == same.id != other.id


def test_equal_cells_are_one_job() -> None:
    assert len(jobs([{"class_path": "Padim"}, {"class_path": "Padim"}], [0])) == 2


def test_a_model_may_have_a_batch_size_and_a_name_of_its_own() -> None:
    job = jobs([{"class_path": "PFADSeg", "name": "PFADSeg-16", "data": {"train_batch_size": 16}}], [0])[1]
    assert job.id.startswith("PFADSeg-16-tile-seed0-")
    assert job.config["data"]["init_args"] == {"category": "tile", "train_batch_size": 16}
    assert "data" not in job.config["model"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"class_path": "Padimm"}, "has no AnomalibModule Padimm"),
        ({"class_path": "Padim", "init_arg": {}}, "init_arg cannot be set for Padim"),
        ({"class_path": "Padim", "trainer": {"devices": 2}}, "devices cannot be set for Padim"),
        ({"class_path": "Padim", "init_args": {"layer": []}}, "Padim does not take these init_args"),
        ({"class_path": "Padim", "data": {"batch": 3}}, "MVTecAD does not take these init_args"),
        ({}, "has no AnomalibModule"),
    ],
)
def test_a_slip_in_the_grid_is_a_sentence_before_the_first_job(model, message) -> None:
    with pytest.raises(ValueError, match=message):
        jobs([model], [0])


def test_a_grid_without_seed_says_so() -> None:
    generator = ProtocolJobGenerator("cpu", Protocol(), Path("results"))
    with pytest.raises(ValueError, match="needs model, data and seed"):
        list(generator({"model": {"class_path": "Padim"}, "data": DATA}))


@pytest.mark.parametrize("section", [{"resluts": "x"}, {"image_size": "large"}, {"runner": "slurm"}])
def test_a_slip_in_the_protocol_is_a_sentence_that_names_the_keys(section) -> None:
    with pytest.raises(ValueError, match=r"its keys are results, image_size"):
        read_protocol(section)


def test_results_go_to_a_folder_named_like_the_configuration() -> None:
    runner = protocol_runner({"accelerator": "cpu", "protocol": None}, default_name="mine")
    assert runner.results == Path("results/benchmark/mine")


def test_each_gpu_has_a_job_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert protocol_runner({"protocol": {}}, "mine").devices == ["0", "1", "2"]
    assert protocol_runner({"protocol": {"runner": "serial"}}, "mine").devices == [None]
    assert protocol_runner({"protocol": {}, "accelerator": ["cpu"]}, "mine").devices == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,7")
    assert protocol_runner({"protocol": {}}, "mine").devices == ["4", "GPU-a", "7"]


def test_what_the_machine_cannot_do_is_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="found no GPU"):
        protocol_runner({"protocol": {"runner": "gpus"}}, "mine")
    with pytest.raises(ValueError, match="accelerator=tpu is not one of"):
        protocol_runner({"protocol": {}, "accelerator": "tpu"}, "mine")


def test_a_wrong_configuration_ends_the_command_with_its_sentence(tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"protocol": {"results": str(tmp_path)}, "benchmark": {"seed": 0}}))
    with pytest.raises(SystemExit, match="anomalib benchmark: benchmark: needs model, data and seed"):
        Benchmark().run(Namespace(config=str(config)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_of_the_package_are_valid(path) -> None:
    runner = protocol_runner(yaml.safe_load(path.read_text()), default_name=path.stem)
    made = list(runner.generator(yaml.safe_load(path.read_text())["benchmark"]))
    assert len(made) == {"smoke": 4, "two_sets": 12, "mvtec_ad": 15 * 6 * 5, "visa": 12 * 6 * 5, "folder": 4}[path.stem]


def test_the_page_says_the_schedules_of_the_smoke_benchmark() -> None:
    config = yaml.safe_load((REPOSITORY / "configs/benchmark/smoke.yaml").read_text())["benchmark"]
    page = (REPOSITORY / "destseg_anomalib/benchmark/README.md").read_text()
    batch = config["data"]["init_args"]["train_batch_size"]
    for model in config["model"]["grid"]:
        arguments, trainer = model["init_args"], model.get("trainer", {})
        schedule = "1 epoch, coreset of 1 %"  # of Patchcore, which has no other
        if "student_steps" in arguments:
            schedule = f"{arguments['student_steps']} + {arguments['segmentation_steps']} steps"
        elif "max_epochs" in trainer:
            schedule = f"{trainer['max_epochs']} epochs"
        precision = {"bf16-mixed": "bfloat16"}.get(trainer.get("precision"), "float32")
        cells = (model["class_path"], schedule, model.get("data", {}).get("train_batch_size", batch), precision)
        assert f"| {' | '.join(map(str, cells))} |" in page
