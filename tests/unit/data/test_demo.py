# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import os
import socket
from pathlib import Path

import anomalib.data
import cv2
import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils import ValSplitMode
from skimage import data as photographs

from destseg_anomalib.data import DemoSurfaces, demo

DEFECT_KINDS = {"dent", "scratch", "spot", "stain"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def datamodule(root: Path) -> DemoSurfaces:
    module = DemoSurfaces(root=root, train_batch_size=8, eval_batch_size=60)
    module.prepare_data()
    module.setup()
    return module


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_the_folder_has_the_layout_of_mvtec_ad(datamodule: DemoSurfaces) -> None:
    folder = datamodule.root / "brick"
    assert {p.name for p in (folder / "train").iterdir()} == {"good"}
    assert {p.name for p in (folder / "test").iterdir()} == DEFECT_KINDS | {"good"}
    assert {p.name for p in (folder / "ground_truth").iterdir()} == DEFECT_KINDS
    for image in (folder / "test").glob("*/*.png"):
        assert cv2.imread(str(image), cv2.IMREAD_UNCHANGED).shape == (256, 256)
        mask = folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
        assert mask.exists() == (image.parent.name != "good")


def test_the_splits_have_the_sizes_that_the_docstring_promises(datamodule: DemoSurfaces) -> None:
    assert len(datamodule.train_data) == 96
    assert datamodule.test_data.samples.label.value_counts().to_dict() == {"good": 20} | dict.fromkeys(DEFECT_KINDS, 10)
    assert not datamodule.train_data.has_anomalous


def test_the_validation_set_is_the_test_set(datamodule: DemoSurfaces) -> None:
    assert datamodule.val_split_mode is ValSplitMode.SAME_AS_TEST
    assert datamodule.val_data.samples.equals(datamodule.test_data.samples)


def test_a_batch_carries_the_masks_of_the_files(datamodule: DemoSurfaces) -> None:
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.image.shape == (60, 3, 256, 256)
    assert 0 <= batch.image.min() < batch.image.max() <= 1
    assert batch.gt_mask.shape == (60, 256, 256)
    assert torch.equal(batch.gt_mask.flatten(1).any(1), batch.gt_label.bool())
    for path, label, mask in zip(batch.mask_path, batch.gt_label, batch.gt_mask, strict=True):
        if label:
            assert np.array_equal(cv2.imread(path, cv2.IMREAD_GRAYSCALE) > 0, mask.bool().numpy())


def test_split_options_of_anomalib_are_honoured(root: Path) -> None:
    module = DemoSurfaces(root=root, val_split_mode="from_test", val_split_ratio=0.25)
    module.setup()
    assert len(module.val_data) + len(module.test_data) == 60
    assert len(module.val_data) == pytest.approx(15, abs=2)


def test_training_and_test_pieces_come_from_different_halves_of_the_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = np.zeros((512, 512), np.uint8)
    halves[:, :256], halves[:, 256:] = 60, 180
    monkeypatch.setattr(photographs, "brick", lambda: halves)
    demo.write_demo_surface(tmp_path / "brick", "brick", seed=0)
    # Cubic interpolation at the very border and the lamp move the grey values a little, a foreign pixel by 120.
    for path in (tmp_path / "brick" / "train").rglob("*.png"):
        assert cv2.imread(str(path), 0).max() < 100
    for path in (tmp_path / "brick" / "test" / "good").rglob("*.png"):
        assert cv2.imread(str(path), 0).min() > 130


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_pictures(
    datamodule: DemoSurfaces, tmp_path: Path
) -> None:
    first = contents(datamodule.root / "brick")
    again, other = DemoSurfaces(root=tmp_path), DemoSurfaces(root=tmp_path, seed=1)
    again.prepare_data()
    other.prepare_data()
    assert contents(again.root / "brick") == first
    second = contents(other.root / "brick")
    assert second.keys() == first.keys()
    assert not any(second[name] == first[name] for name in first if "ground_truth" not in name)


@pytest.mark.parametrize("category", ["grass", "gravel"])
def test_other_categories_lie_beside_the_first_one(root: Path, datamodule: DemoSurfaces, category: str) -> None:
    other = DemoSurfaces(category=category, root=root)
    other.setup()
    assert other.root == datamodule.root
    assert other.category == category
    assert len(other.train_data) == 96


def test_a_finished_set_is_used_again(datamodule: DemoSurfaces, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "write_demo_surface", lambda *_: pytest.fail("the set was made a second time"))
    DemoSurfaces(root=root).prepare_data()


def test_a_change_of_the_generator_makes_a_new_set(
    datamodule: DemoSurfaces, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "GENERATOR_VERSION", demo.GENERATOR_VERSION + 1)
    assert DemoSurfaces(root=root).root != datamodule.root


def test_a_run_that_dies_half_way_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = demo._write, []

    def die_after_fifty(path: Path, image: np.ndarray) -> None:
        if len(written) == 50:
            raise KeyboardInterrupt
        written.append(path)
        real(path, image)

    monkeypatch.setattr(demo, "_write", die_after_fifty)
    module = DemoSurfaces(root=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        module.prepare_data()
    assert len(written) == 50
    assert not (module.root / "brick").exists()
    monkeypatch.setattr(demo, "_write", real)
    module.setup()
    assert (len(module.train_data), len(module.test_data)) == (96, 60)


def test_what_a_killed_run_left_behind_is_not_taken_for_a_set(tmp_path: Path) -> None:
    module = DemoSurfaces(root=tmp_path)
    leftover = module.root / ".unfinished-x" / "brick" / "train" / "good" / "000.png"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"")
    module.setup()
    assert len(module.train_data) == 96


def test_of_two_processes_at_once_the_slower_one_takes_the_set_of_the_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = demo.write_demo_surface

    def write_while_another_process_finishes(folder: Path, category: str, seed: int, size: int) -> None:
        monkeypatch.setattr(demo, "write_demo_surface", real)
        DemoSurfaces(root=tmp_path).prepare_data()
        real(folder, category, seed)

    monkeypatch.setattr(demo, "write_demo_surface", write_while_another_process_finishes)
    slower = DemoSurfaces(root=tmp_path)
    slower.setup()
    assert (len(slower.train_data), len(slower.test_data)) == (96, 60)
    assert [path.name for path in slower.root.iterdir()] == ["brick"]


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    DemoSurfaces(root=tmp_path).prepare_data()


def test_without_a_root_the_set_goes_to_the_cache_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.platformdirs, "user_cache_path", lambda name, **_: tmp_path / name)
    assert DemoSurfaces().root.parent == tmp_path / "destseg_anomalib" / "demo_surfaces"


def test_the_constructor_writes_nothing(tmp_path: Path) -> None:
    DemoSurfaces(root=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_category_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no category 'wood': choose one of brick, grass, gravel"):
        DemoSurfaces(category="wood")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed=-1: pass a seed of 0 or more"):
        DemoSurfaces(seed=-1)


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write its pictures to .*file.*brick \(.+\): pass root="):
        DemoSurfaces(root=tmp_path / "file").prepare_data()


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="pass root= with a folder that you may write to"):
        DemoSurfaces(root=tmp_path).prepare_data()


def test_anomalib_finds_the_data_module_by_name(root: Path) -> None:
    assert anomalib.data.DemoSurfaces is DemoSurfaces
    found = get_datamodule({"class_path": "DemoSurfaces", "init_args": {"root": str(root), "category": "gravel"}})
    assert isinstance(found, DemoSurfaces)
    assert (found.name, found.category) == ("DemoSurfaces", "gravel")


def test_a_config_file_can_name_the_data_module(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "data.yaml"
    config.write_text(
        f"class_path: destseg_anomalib.data.DemoSurfaces\ninit_args:\n  root: {root}\n  category: grass\n"
    )
    module = AnomalibDataModule.from_config(config)
    assert isinstance(module, DemoSurfaces)
    assert module.category == "grass"


def test_large_pictures_have_small_defects_and_a_folder_of_their_own(
    root: Path, datamodule: DemoSurfaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in {"TRAIN_GOOD": 2, "TEST_GOOD": 1, "PER_DEFECT": 1}.items():
        monkeypatch.setattr(demo, name, count)
    large = DemoSurfaces(root=root, size=1024)
    large.setup()
    assert large.root != datamodule.root
    assert (len(large.train_data), len(large.test_data)) == (2, 5)
    item = next(item for item in large.test_data if item.gt_label)
    assert item.image.shape == (3, 1024, 1024)
    assert 0 < item.gt_mask.sum() < 400
    with pytest.raises(ValueError, match=r"^DemoSurfaces has no pictures of size=512: choose 256 or 1024\.$"):
        DemoSurfaces(size=512)
