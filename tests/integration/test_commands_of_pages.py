# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Every command that a page shows runs as it stands, made small by arguments that are appended; so does every example.

The commands run in this process, in a folder that has what they name. A command may be left out only by the list below.
"""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
from anomalib.cli.cli import main as anomalib
from anomalib.engine import Engine
from anomalib.models.components.base.export_mixin.mixin import ExportMixin
from lightning.pytorch import seed_everything
from safetensors.torch import save_file

from destseg_anomalib import DemoSurfaces, DeSTSeg
from tests.conftest import make_part_data, make_part_folder
from tests.integration.conftest import STEPS, TINY, few_pieces

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [page for place in ("*.md", "destseg_anomalib/**/*.md", "examples/*.md") for page in REPOSITORY.glob(place)]
BLOCK = re.compile(r"^```(?:bash|console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\$\(cat ([^)]+)\)")  # what the shell puts in its place
INLINE = re.compile(r"`(python examples/[^`]+)`")

NOT_RUN = {
    "git clone": "needs a remote",
    "cd destseg-anomalib": "follows the clone",
    ".venv/bin/ruff": "CI runs it",
    ".venv/bin/mypy": "CI runs it",
    "python -m venv": "makes an environment; CI runs these very commands",
    ".venv/bin/pip install": "installs; CI runs these very commands",
    ".venv/bin/python -m pytest": "is what runs this test",
    "pip install": "installs",
    "anomalib benchmark": "has no smaller size on the command line; test_benchmark.py runs it",
    "python examples/audit_dependencies.py": "needs the network; test_safety.py runs its parts",
    "python examples/averaged_weights.py": "trains for half an hour; test_examples.py runs it on less",
    "python examples/benchmark_": "takes minutes; test_benchmark_speed.py and test_benchmark_example.py run parts",
    "python examples/compare_models.py": "trains two models; test_examples.py runs it",
    "python examples/export_fidelity.py": "exports a model six times; test_export.py runs it",
    "python examples/large_images.py": "trains for half an hour; test_examples.py runs it on less",
    "python examples/onnx_without_torch.py": "needs an export, which takes most of a minute; test_export.py runs it",
    "python examples/soak.py": "takes long; test_soak.py runs it for fewer steps",
}
WEIGHTS = "resnet18.safetensors"
SMALL_MODEL = {
    "student_steps": 1,
    "segmentation_steps": 1,
    "image_size": [32, 32],
    "textures": None,
    "student_lr": 0.01,  # the published rates are too high for images this small
}
TRAINER = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "logger": False}
DATA = {"num_workers": 0, "train_batch_size": 4}
SMALLER = {
    "anomalib train --config configs/model": {
        "model": SMALL_MODEL | {"backbone_weights": WEIGHTS},
        "trainer": TRAINER,
        "data": DATA,
    },
    "anomalib train --model DeSTSeg --data configs": {
        "model": SMALL_MODEL | {"backbone_weights": WEIGHTS},
        "trainer": TRAINER,
        "data": DATA,
    },
    "anomalib train --config configs/quickstart.yaml": {"model": SMALL_MODEL, "trainer": TRAINER, "data": DATA},
    # Of the few pictures here, one good part is held out.
    "anomalib train --config configs/quickstart.yaml --data.val_split_mode from_test": {
        "model": {"post_processor.false_alarms": 0.5}
    },
    "anomalib train --model DeSTSeg --data configs/data/good_only.yaml": {
        "model": {"post_processor.false_alarms": 0.5}
    },
    "anomalib predict": {"trainer": TRAINER},
    "python examples/train.py": {"size": 32, "steps": (1, 1), "batch": 4},
    "python examples/operating_point.py": {"sets": 1},
    "python examples/first_gradient.py": {"seeds": 1},
    "python examples/evaluate_bundled.py": {"size": 32, "untrained": ()},
    "python examples/run_benchmark.py": {"size": 32, "models": "Patchcore"},
}


def commands_of(page: Path) -> list[str]:
    """Single commands of the shell blocks of a page, and its examples named in passing."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines = [line.removeprefix("$ ") for line in lines if line.strip() and not line.startswith("#")]
    commands = [part for line in [*lines, *INLINE.findall(text)] for part in line.split(" && ")]
    return [" ".join(command.split()) for command in commands]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


def arguments(settings: dict) -> list[str]:
    """Command line of settings: `--group.name=value` for anomalib, `--name value` for examples."""
    words = []
    for name, value in settings.items():
        if isinstance(value, dict):
            words += [f"--{name}.{key}={'null' if item is None else item}" for key, item in value.items()]
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of a DeSTSeg that has hardly trained."""
    folder = tmp_path_factory.mktemp("trained")
    seed_everything(0, verbose=False)
    model = DeSTSeg(**TINY, **STEPS)
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False)
    engine.fit(model, datamodule=make_part_data(make_part_folder(folder)))
    return Path(engine.best_model_path)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory) -> Path:
    """A file of teacher weights, which have learned nothing."""
    path = tmp_path_factory.mktemp("weights") / WEIGHTS
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache folder that holds a demo set of few pictures."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        few_pieces(patch)
        DemoSurfaces().prepare_data()
    return folder


@pytest.fixture
def place(tmp_path_factory, tmp_path, checkpoint, trunk, cache, monkeypatch) -> Path:
    """The folder that commands are typed in: a checkout, with the data, weights and checkpoints that they name."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    parts = make_part_folder(tmp_path_factory.mktemp("data"))
    for defect in ("test", "ground_truth"):
        shutil.copytree(parts / defect / "hole", parts / defect / "defect")
    for mask in (parts / "ground_truth" / "defect").iterdir():
        mask.rename(mask.with_name(mask.name.replace("_mask", "")))  # as the README asks for
    shutil.copytree(parts, tmp_path / "datasets" / "my_parts")
    shutil.rmtree(parts / "test" / "defect")
    shutil.rmtree(parts / "ground_truth" / "defect")
    shutil.copytree(parts, tmp_path / "datasets" / "MVTecAD" / "bottle")
    for folder in ("new/pictures", "textures"):
        (tmp_path / "path/to" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "path/to" / folder / "a.png"), np.full((40, 40, 3), 99, np.uint8))
    (tmp_path / WEIGHTS).symlink_to(trunk)
    for data in ("my_parts", "DemoSurfaces/brick"):
        results = tmp_path / "results" / "DeSTSeg" / data
        (results / "v0" / "weights" / "lightning").mkdir(parents=True)
        (results / "v0" / "weights" / "lightning" / "model.ckpt").symlink_to(checkpoint)
        (results / "latest").symlink_to("v0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.syspath_prepend(REPOSITORY / "examples")
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process."""
    settings = [value for prefix, value in SMALLER.items() if command.startswith(prefix)]
    typed = shlex.split(command, comments=True)
    words = [FILE.sub(lambda named: Path(named[1]).read_text(), word) for word in typed] + [
        word for value in settings for word in arguments(value)
    ]
    monkeypatch.setattr(sys, "argv", words[1:] if words[0] == "python" else words)
    if words[0] == "anomalib":
        anomalib()
    elif words[:2] == ["python", "-m"]:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        assert words[0] == "python", f"`{command}` is unknown here: run it, or say in NOT_RUN why not."
        runpy.run_path(words[1], run_name="__main__")


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(tuple(NOT_RUN))])
def test_a_command_of_a_page_runs_as_it_stands(command, place, monkeypatch) -> None:
    for name in ("to_onnx", "to_openvino"):  # what an export contains is tested elsewhere, and takes most of a minute
        monkeypatch.setattr(ExportMixin, name, lambda *_, **__: place / "exported")
    run(command.removeprefix(".venv/bin/"), monkeypatch)
    if "train" in command:
        assert list(place.glob("results/*/**/images/**/*.png")), "no heat map was left"


def test_no_reason_to_leave_a_command_out_is_idle() -> None:
    assert [prefix for prefix in NOT_RUN if not any(command.startswith(prefix) for command in COMMANDS)] == []


def test_every_example_is_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [p.name for p in (REPOSITORY / "examples").glob("*.py") if p.name not in text] == []
