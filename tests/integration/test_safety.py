# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Nothing that is loaded, fetched or unpacked runs code, and nothing is written outside its folder."""

import ast
import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data.utils import DownloadInfo, download
from lightning.pytorch import Trainer

from destseg_anomalib import DeSTSeg
from destseg_anomalib.synthesis import texture_bank
from destseg_anomalib.synthesis import textures as textures_module
from tests.integration.conftest import STEPS, TINY, Bench

PACKAGE = Path(textures_module.__file__).parents[1]
NOT_LOADED = r"model\.ckpt is damaged, is no checkpoint, or holds more than weights and plain data, and was not loaded"


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code_has_run"


def as_pickle(content: dict[str, Any], path: Path) -> None:
    """A bare pickle, whose first object runs before anybody finds that it is no checkpoint."""
    path.write_bytes(pickle.dumps(content["epoch"]))


def commands(bench: Bench) -> dict[str, list[str]]:
    """The commands of anomalib that take a checkpoint."""
    arguments = TINY | STEPS | {"image_size": "[32,32]"}
    model = ["--model", "DeSTSeg", *(f"--model.{name}={value}" for name, value in arguments.items())]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"]
    data = f"""
        --data Folder --data.name parts --data.root {bench.parts} --data.normal_dir train/good
        --data.normal_test_dir test/good --data.abnormal_dir test/hole --data.mask_dir ground_truth/hole
        --data.train_batch_size 4 --data.num_workers 0 --data.val_split_mode same_as_test
    """.split()
    return {
        "train": ["train", *model, *data, *trainer],
        "test": ["test", *model, *data, *trainer],
        "predict": ["predict", *model, *trainer, "--data", str(bench.parts / "test" / "good")],
        "export": ["export", *model, "--export_type", "torch"],
    }


@pytest.mark.parametrize("write", [torch.save, as_pickle])
@pytest.mark.parametrize("command", ["train", "test", "predict", "export"])
def test_a_checkpoint_that_would_run_code_is_refused(bench: Bench, mark, monkeypatch, command, write) -> None:
    write(bench.stored() | {"epoch": Evil(mark)}, bench.folder / "model.ckpt")
    monkeypatch.chdir(bench.folder)
    # Not even where the user's environment asks for it.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match=NOT_LOADED):
        AnomalibCLI([*commands(bench)[command], "--ckpt_path", str(bench.folder / "model.ckpt")])
    assert not mark.exists()
    with suppress(RuntimeError):  # "Invalid magic number", once it is too late
        torch.load(bench.folder / "model.ckpt", weights_only=False)  # it is not a dud
    assert mark.exists()


def test_lightnings_own_trainer_refuses_code_as_well(bench: Bench, mark) -> None:
    torch.save(bench.stored() | {"epoch": Evil(mark)}, bench.folder / "model.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=bench.folder)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        trainer.test(bench.model, datamodule=bench.data(), ckpt_path=bench.folder / "model.ckpt", weights_only=None)
    with pytest.raises(ValueError, match=NOT_LOADED):
        DeSTSeg.load_from_checkpoint(bench.folder / "model.ckpt", weights_only=False)
    assert not mark.exists()


def test_a_checkpoint_needs_no_permission_to_be_loaded(bench: Bench) -> None:
    assert torch.serialization.get_unsafe_globals_in_checkpoint(bench.checkpoint) == []


def test_a_teacher_with_code_is_refused_when_training_starts(bench: Bench, mark) -> None:
    torch.save({"conv1.weight": Evil(mark)}, bench.folder / "teacher.pth")
    with pytest.raises(ValueError, match=r"teacher\.pth holds more or other than a state dict of tensors"):
        bench.train(pre_trained=True, backbone_weights=bench.folder / "teacher.pth")
    assert not mark.exists()


def test_a_texture_cache_with_code_is_replaced(bench: Bench, mark, monkeypatch) -> None:
    monkeypatch.setattr(textures_module, "user_cache_path", lambda _: bench.folder / "cache")
    first = texture_bank(bench.parts / "test/good", (8, 8)).textures.clone()
    [path] = (bench.folder / "cache").rglob("*.npy")
    np.save(path, np.array([Evil(mark)], dtype=object))
    assert torch.equal(texture_bank(bench.parts / "test/good", (8, 8)).textures, first)
    assert not mark.exists()


def test_no_line_of_the_package_loads_pickles_or_evaluates_text() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                passed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called not in {"eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"}, path
                if not called.endswith(".save_checkpoint"):  # where it says what is written
                    assert passed.get("weights_only", "True") == "True", path
                assert passed.get("allow_pickle", "False") == "False", path
                assert passed.get("shell", "False") == "False", path
                if called in {"torch.load", "timm.models.load_state_dict"}:
                    assert "weights_only" in passed, path


def member(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def texture_archive(*, evil: Path | None) -> bytes:
    """An archive laid out like DTD with one picture, and perhaps members that try to leave the folder."""
    picture = cv2.imencode(".png", np.full((20, 20, 3), 90, np.uint8))[1].tobytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member(archive, "dtd/images/banded/banded_0001.png", picture)
        if evil:
            for up in range(1, 6):
                member(archive, "../" * up + "escaped.png", picture)
            member(archive, "dtd/images/../../../../escaped.png", picture)
            member(archive, str(evil / "escaped.png"), picture)
            member(archive, "dtd/link", type=tarfile.SYMTYPE, linkname=str(evil))
            member(archive, "dtd/link/escaped.png", picture)
            member(archive, "dtd/hard", type=tarfile.LNKTYPE, linkname="../../secret")
            member(archive, "dtd/pipe", type=tarfile.FIFOTYPE)
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the server of DTD sends, and a cache to unpack it in; the hash expected is that of a good archive."""
    sent = {"data": texture_archive(evil=None)}
    monkeypatch.setattr(textures_module, "user_cache_path", lambda _: tmp_path / "a" / "b" / "cache")
    expect_hash(monkeypatch, sent["data"])
    monkeypatch.setattr(download, "urlretrieve", lambda url, filename, reporthook: filename.write_bytes(sent["data"]))
    return sent


def expect_hash(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    info = textures_module.DTD
    monkeypatch.setattr(textures_module, "DTD", DownloadInfo(info.name, info.url, hashlib.sha256(data).hexdigest()))


def test_dtd_is_fetched_over_https_by_its_published_hash() -> None:
    assert textures_module.DTD.url.startswith("https://")
    assert len(bytes.fromhex(textures_module.DTD.hashsum)) == 32


def test_textures_are_fetched_unpacked_and_kept(served, tmp_path) -> None:
    assert len(texture_bank("dtd", (8, 8))) == 1
    served["data"] = b"is not asked again"
    assert len(texture_bank("dtd", (8, 8))) == 1
    assert [path.name for path in (tmp_path / "a/b/cache/dtd").iterdir()] == ["dtd"]


@pytest.mark.parametrize("times", [1, 2])
def test_an_archive_of_another_hash_is_refused_each_time_and_not_kept(served, tmp_path, times) -> None:
    served["data"] = texture_archive(evil=tmp_path)
    for _ in range(times):
        with pytest.raises(ConnectionError, match=r"could not be fetched .* does not match the required hash"):
            texture_bank("dtd", (8, 8))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_archive_that_lies_in_the_cache_is_not_trusted(served, tmp_path) -> None:
    cache = tmp_path / "a" / "b" / "cache" / "dtd"
    cache.mkdir(parents=True)
    (cache / textures_module.DTD.name).write_bytes(texture_archive(evil=tmp_path))
    assert len(texture_bank("dtd", (8, 8))) == 1
    assert not list(tmp_path.rglob("escaped.png"))


def test_an_archive_cannot_write_outside_its_folder_even_with_the_right_hash(served, tmp_path, monkeypatch) -> None:
    (tmp_path / "secret").write_text("secret")
    served["data"] = texture_archive(evil=tmp_path)
    expect_hash(monkeypatch, served["data"])
    assert len(texture_bank("dtd", (8, 8))) == 1
    inside = tmp_path / "a" / "b" / "cache" / "dtd" / "dtd"
    assert not [path for path in tmp_path.rglob("escaped.png") if inside not in path.parents]
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_fifo()]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_the_import_hook_opens_writes_sends_and_starts_nothing() -> None:
    """Python's own audit events, from a process in which nothing of ours was imported before."""
    script = """
import sys, destseg_anomalib.plugin as plugin
before, events = set(sys.modules), []
sys.addaudithook(lambda event, args: events.append(event))
plugin.install_import_hook()
print(sorted(set(events)), sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_the_import_hook_uses_the_standard_library_alone() -> None:
    for path in (PACKAGE / "plugin.py", PACKAGE / "__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in sys.stdlib_module_names
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names


AUDIT = Path(__file__).resolve().parents[2] / "examples" / "audit_dependencies.py"
ANSWERS = {
    "nothing known": ({"name": "torch", "vulns": []}, 0, "No vulnerability of any of these versions is known."),
    "one known": (
        {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]},
        1,
        "a 1: PYSEC-1, fixed in 2",
    ),
    "not looked up": ({"name": "a", "skip_reason": "gone"}, 1, "a: not looked up (gone)"),
    "no network": (None, 2, "since pip-audit could not reach its database (connection refused)."),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_audit_lists_licences_and_tells_what_pip_audit_answered(tmp_path, answer) -> None:
    package, code, sentence = ANSWERS[answer]
    refusal, report = "raise SystemExit('connection refused')", json.dumps({"dependencies": [package]})
    (tmp_path / "pip_audit.py").write_text(f"print({report!r})" if package else refusal)
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1].endswith(sentence)
    for package in ("anomalib ", "torch ", "timm ", "destseg-anomalib "):
        assert any(line.startswith(package) and len(line.split()) > 2 for line in done.stdout.splitlines())
