# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import pytest
import yaml
from anomalib.cli import AnomalibCLI

FIGURES = {
    "image_AUROC",
    "image_F1Score",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_AUPRO",
    "pixel_F1Max",
    "pixel_F1Score",
    "IAP",
    "IAP@90",
}
BACKBONE = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False}
PRE_PROCESSOR = {
    "class_path": "anomalib.pre_processing.PreProcessor",
    "init_args": {
        "transform": {
            "class_path": "destseg_anomalib.transforms.RoundedBilinearResize",
            "init_args": {"size": [64, 64]},
        }
    },
}


def train(tmp_path: Path, root: Path, model: str, evaluator: dict, **arguments: object) -> dict[str, float]:
    """Train and test a bundled model from a YAML file; what the trainer knows at the end."""
    config = {
        "model": {
            "class_path": model,
            "init_args": {**BACKBONE, **arguments, "pre_processor": PRE_PROCESSOR, "evaluator": evaluator},
        },
        "data": {
            "class_path": "Folder",
            "init_args": {
                "name": "parts",
                "root": str(root),
                "normal_dir": "train/good",
                "normal_test_dir": "test/good",
                "abnormal_dir": "test/hole",
                "mask_dir": "ground_truth/hole",
                "num_workers": 0,
                "train_batch_size": 4,
                "eval_batch_size": 4,
                "val_split_mode": "same_as_test",
            },
        },
        "trainer": {"accelerator": "cpu", "devices": 1, "logger": False},
        "default_root_dir": str(tmp_path / "results"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    cli = AnomalibCLI(args=["train", "--config", str(path)])
    return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("model", "arguments"), [("Patchcore", {"coreset_sampling_ratio": 0.05}), ("Padim", {"n_features": 20})]
)
def test_bundled_models_report_all_figures_from_yaml(model, arguments, part_folder, tmp_path) -> None:
    evaluator = {"class_path": "destseg_anomalib.metrics.RawMapEvaluator"}
    figures = train(tmp_path, part_folder, model, evaluator, **arguments)
    assert figures.keys() == FIGURES
    assert all(0 <= value <= 1 for value in figures.values()), json.dumps(figures)
    assert list((tmp_path / "results").rglob("iap_curve.png"))


def test_the_metrics_alone_can_be_named_in_yaml(part_folder, tmp_path) -> None:
    evaluator = {
        "class_path": "anomalib.metrics.Evaluator",
        "init_args": {
            "test_metrics": [
                {"class_path": "destseg_anomalib.metrics.IAP", "init_args": {"bits": 18}},
                {
                    "class_path": "destseg_anomalib.metrics.IAPAtRecall",
                    "init_args": {"recall": 0.5, "prefix": "pixel_"},
                },
            ]
        },
    }
    assert train(tmp_path, part_folder, "Padim", evaluator, n_features=20).keys() == {"IAP", "pixel_IAP@50"}


def test_further_metrics_of_the_evaluator_can_be_named_in_yaml(part_folder, tmp_path) -> None:
    wide = {"num_thresholds": 1000, "fpr_bounds": [0.001, 0.5], "force": True}
    evaluator = {
        "class_path": "destseg_anomalib.metrics.RawMapEvaluator",
        "init_args": {
            "val_metrics": [
                {"class_path": "anomalib.metrics.AUROC", "init_args": {"fields": ["anomaly_map", "gt_mask"]}}
            ],
            "test_metrics": [{"class_path": "anomalib.metrics.AUPIMO", "init_args": wide}],
        },
    }
    figures = train(tmp_path, part_folder, "Padim", evaluator, n_features=20)
    assert figures.keys() == FIGURES | {"AUPIMO"}  # of the test alone, which comes after the validation
    assert all(0 <= value <= 1 for value in figures.values()), json.dumps(figures)
