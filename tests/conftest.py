# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What several tests need: the shared data of the workshop, where it is there, and small images."""

import ctypes
import gc
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from anomalib.data import Folder
    from anomalib.engine import Engine

# Of the processes that tests start, too: several threads in each of several processes get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# Or OpenVINO reports each conversion to its makers, from a fork of this process, which holds gigabytes and threads.
os.environ.setdefault("CI", "true")

ANOMALIB = Path(sys.executable).with_name("anomalib")
SHARED = Path(__file__).resolve().parents[2] / "shared"


# Files that take longest, dearest first. They are begun first, so that no process is left alone with one at the end.
LONGEST = (
    "test_export.py",
    "test_crops.py",
    "test_compiled.py",
    "test_benchmark.py",
    "test_configs.py",
    "test_checkpoints_decide.py",
    "test_two_devices.py",
    "test_inputs.py",
    "test_commands_of_pages.py",
    "test_benchmark_speed.py",
    "test_operating_point_doors.py",
    "test_gpu_check.py",
    "test_resume.py",
    "test_plugin.py",
    "test_regions.py",
    "test_cli.py",
    "test_examples.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others follow in their order."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish() -> None:
    """Look for cycles less often than Python does, and never among the million objects that imports left."""
    gc.freeze()
    gc.set_threshold(100_000)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference numbers, real images and weights, which lies beside the repository where it was built."""
    if not SHARED.is_dir():
        pytest.skip("the folder of reference data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def seeded_state(shared: Path):
    """The functions that fill a model and make images alike here and in the official code."""
    sys.path.insert(0, str(shared / "fixtures"))
    import seeded_state

    return seeded_state


class SignalStack(ctypes.Structure):
    """The `stack_t` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_done_for_nobody() -> Iterator[None]:
    """Leave out what no test looks at, and what takes a minute of all tests.

    Heat maps are not compressed, checkpoints have no checksums, and the frames of the stack, by which jsonargparse and
    Lightning ask who calls them at each command, come without the lines of their source.
    """
    save = Image.Image.save
    torch.serialization.set_crc32_options(compute_crc32=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *args, **kwargs: save(*args, **{"compress_level": 0} | kwargs))
        patch.setattr(inspect, "stack", lambda context=0: inspect.getouterframes(sys._getframe(1), context))
        yield


@pytest.fixture(autouse=True)
def signals_have_a_stack() -> Iterator[None]:
    """Take signals back to the stack of the program.

    OpenVINO gives them one of its own, and frees it with the model that it was made for: the next signal, such as that
    of a loader's worker which ends, then ends the process without a word.
    """
    yield
    if sys.platform == "linux":
        disabled = SignalStack(None, 2, 0)
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None) == 0


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Start every test from the same state, so that one which fails fails again."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Make what several tests share from the same state as well, whichever of them asks first."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


def make_part_folder(root: Path) -> Path:
    """Write parts in MVTec AD's layout: 8 good training images, 3 good and 3 defective ones with masks."""
    rng = np.random.default_rng(0)
    for split, count in (("train/good", 8), ("test/good", 3), ("test/hole", 3), ("ground_truth/hole", 3)):
        folder = root / "parts" / split
        folder.mkdir(parents=True)
        for index in range(count):
            image = rng.integers(90, 160, (80, 80, 3), dtype=np.uint8)
            if "hole" in split:
                background = np.zeros_like(image) if "ground_truth" in split else image
                image = cv2.circle(background, (25 + 8 * index, 40), 9, (255, 255, 255), thickness=-1)
            suffix = "_mask" if "ground_truth" in split else ""
            cv2.imwrite(str(folder / f"{index:03d}{suffix}.png"), image)
    return root / "parts"


def make_part_data(folder: Path, batch_size: int = 4, **kwargs: Any) -> "Folder":
    """Make the data module of such a folder; other arguments go to `Folder`."""
    from anomalib.data import Folder  # takes seconds to import, which tests without data need not wait for

    arguments = {
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": "test/hole",
        "mask_dir": "ground_truth/hole",
        "train_batch_size": batch_size,
        "eval_batch_size": 4,
        "num_workers": 0,
        "val_split_mode": "same_as_test",
    }
    return Folder("parts", root=folder, **(arguments | kwargs))


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """File of a backbone's weights: random ones, but not those that a test's own seed would give."""
    import timm

    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(3)
    torch.save(timm.create_model("resnet18").state_dict(), path)
    return str(path)


@pytest.fixture
def part_folder(tmp_path: Path) -> Path:
    """A folder of parts of the test's own."""
    return make_part_folder(tmp_path)


def quiet_engine(folder: Path, **kwargs: Any) -> "Engine":
    """Make an engine on one CPU that prints and logs nothing and leaves its results in a folder."""
    from anomalib.engine import Engine

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet, **kwargs)


def same_states(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts are equal to the last bit; thresholds that are not set are NaN."""
    return one.keys() == other.keys() and all(torch.equal(one[k].nan_to_num(), other[k].nan_to_num()) for k in one)


def assert_near(actual: Any, expected: Any, limit: float) -> None:
    """Compare with what the map varies by, which rounding in a network must not reach."""
    assert actual.anomaly_map.dtype == actual.pred_score.dtype == torch.float32
    assert (actual.anomaly_map - expected.anomaly_map).abs().max() < limit * expected.anomaly_map.std() > 0
    assert torch.allclose(actual.pred_score, expected.pred_score, atol=limit)


class NoFloat64(TorchDispatchMode):
    """Makes a fake GPU one of those, such as Apple's, that have no such numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                assert value.dtype != torch.float64
        return result
