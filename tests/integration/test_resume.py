# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A training that is killed and resumed ends with the weights, to the last bit, of one that was left alone."""

import shutil
import signal
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from torchvision.transforms.v2 import RandomHorizontalFlip

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.training import checkpoints
from destseg_anomalib.training.checkpoints import CheckpointFiles
from tests.conftest import make_part_data, make_part_folder, quiet_engine, same_states
from tests.integration.conftest import TINY
from tests.integration.forks import Forks
from tests.integration.test_cli import TRAINER, data_arguments

SMALL = {
    DeSTSeg: TINY,
    PFADSeg: {"backbone": "test_resnet", "pre_trained": False, "image_size": (32, 32)},
}

# `anomalib train`, except that it writes last.ckpt every third step, and ends by `kill -9` in the middle of a step or,
# having written half of it, of a checkpoint.
KILLED_TRAIN = """
import os, signal, sys
from pathlib import Path
import torch
from lightning import seed_everything
from destseg_anomalib.training import checkpoints

checkpoints.LEAST_SECONDS, checkpoints.TIME_SHARE, checkpoints.CLOCK_STEPS = 0, float("inf"), 3
seed_everything(int(sys.argv.pop(1)))  # the command has an option of this name, which it ignores
moment, count = sys.argv.pop(1), int(sys.argv.pop(1))
left = {"step": count if moment == "step" else -1, "write": count if moment == "write" else -1}
step, save = torch.optim.SGD.step, torch.save

def die(kind):
    left[kind] -= 1
    if left[kind] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying_step(self, closure=None):
    if closure is not None:
        closure()
    die("step")
    return step(self)

def dying_save(checkpoint, path):
    save(checkpoint, path)
    if left["write"] == 1:
        os.truncate(path, Path(path).stat().st_size // 2)
    die("write")

torch.optim.SGD.step, torch.save = dying_step, dying_save
from anomalib.cli.cli import main
sys.argv[0] = "anomalib"
main()
"""


def train(
    forks: Forks, folder: Path, seed: int, *arguments: str, moment: str = "never", count: int = 0
) -> CompletedProcess[str]:
    model = ["--model", "DeSTSeg", *(f"--model.{k}={v}" for k, v in TINY.items() if k != "image_size")]
    steps = ["--model.image_size=[32,32]", "--model.student_steps=10", "--model.segmentation_steps=10"]
    command = [str(seed), moment, str(count), "train", *model, *steps, *data_arguments(folder.parent / "parts")]
    folder.mkdir(exist_ok=True)
    return forks.run(KILLED_TRAIN, *command, *TRAINER, *arguments, folder=folder)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def figures(printed: str) -> dict[str, float]:
    rows = (line.split("│") for line in printed.splitlines() if line.startswith("│"))
    return {row[1].strip(): float(row[2]) for row in rows if len(row) == 4}


def run_of(folder: Path, number: int) -> Path:
    return next(folder.rglob(f"v{number}")) / "weights" / "lightning"


def test_a_training_killed_in_both_phases_and_while_writing_ends_as_if_it_had_not_been(forks, tmp_path) -> None:
    make_part_folder(tmp_path)
    alone = train(forks, tmp_path / "alone", 3)
    assert alone.returncode == 0, alone.stdout + alone.stderr

    folder = tmp_path / "killed"
    runs = folder / "results" / "DeSTSeg" / "parts"
    for number, (moment, count, kept) in enumerate([("step", 5, 3), ("write", 2, 6), ("step", 9, 12)]):
        how = (99, "--ckpt_path", "last") if number else (3,)  # the seed of a resumed training is the checkpoint's
        killed = train(forks, folder, *how, moment=moment, count=count)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        last = max(runs.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        assert torch.load(last, weights_only=True)["global_step"] == kept
        assert f"v{number}" in last.parts
    ended = train(forks, folder, 99, "--ckpt_path", "last")
    assert ended.returncode == 0, ended.stdout + ended.stderr

    assert same_states(weights(run_of(tmp_path / "alone", 0) / "model.ckpt"), weights(run_of(folder, 3) / "model.ckpt"))
    # What is tested after a resumed training are its new weights, and the log says so.
    assert figures(ended.stdout) == figures(alone.stdout)
    assert len(figures(ended.stdout)) >= 8
    assert "The weights that the training ended with are tested" in ended.stdout + ended.stderr
    assert "Loaded model weights from" not in ended.stdout + ended.stderr


class Stop(Callback):
    """Ends a training by an exception after some batches, and draws random numbers that are nobody's business."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer, *args) -> None:
        torch.rand(3)
        self.batches -= 1
        if self.batches == 0:
            raise InterruptedError


def fit(
    folder: Path,
    out: Path,
    *,
    stop: int = 0,
    seed: int = 0,
    ckpt_path: str | Path | None = None,
    model: type = DeSTSeg,
    data: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    callbacks: list[Callback] | None = None,
    **kwargs: Any,
) -> tuple[Engine, Any]:
    seed_everything(seed, verbose=False)
    trained = model(**(SMALL[model] | {"student_steps": 4, "segmentation_steps": 3} | kwargs))
    engine = quiet_engine(out, callbacks=[*(callbacks or []), Stop(stop)], **(trainer or {}))
    datamodule = make_part_data(folder, **(data or {}))
    try:
        engine.fit(trained, datamodule=datamodule, ckpt_path=ckpt_path)
    except InterruptedError:
        assert stop
    return engine, trained


def save_every(steps: int, patch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEAST_SECONDS": 0, "TIME_SHARE": float("inf"), "CLOCK_STEPS": steps}.items():
        patch.setattr(checkpoints, name, value)


@pytest.mark.parametrize(
    ("saved", "case"),
    [
        (4, {"encoder_decoder": True}),  # after the last step of the first phase
        (6, {"model": PFADSeg}),
        (2, {"segmentation": False}),
        (5, {"trainer": {"accumulate_grad_batches": 2}}),
        (3, {"data": {"train_augmentations": RandomHorizontalFlip()}}),
        (3, {"trainer": {"limit_train_batches": 2}}),
    ],
    ids=["between-phases", "PFADSeg", "student-alone", "accumulation", "augmentations", "short-epochs"],
)
def test_an_interrupted_training_ends_with_the_same_bits(part_folder, tmp_path, monkeypatch, saved, case) -> None:
    _, alone = fit(part_folder, tmp_path / "alone", **case)
    with monkeypatch.context() as patch:
        save_every(saved, patch)
        accumulated = case.get("trainer", {}).get("accumulate_grad_batches", 1)
        fit(part_folder, tmp_path / "stopped", stop=(saved + 1) * accumulated, **case)
    engine, resumed = fit(part_folder, tmp_path / "stopped", seed=7, ckpt_path="last", **case)
    assert engine.trainer.global_step == engine.trainer.max_steps
    assert same_states(alone.state_dict(), resumed.state_dict())


def test_the_step_that_ends_a_training_is_left_to_the_engine(part_folder, tmp_path, monkeypatch) -> None:
    """Otherwise a kill during the validation after it would leave a finished training without thresholds."""
    save_every(1, monkeypatch)
    fit(part_folder, tmp_path, student_steps=1, segmentation_steps=1, stop=2)
    [last] = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 1


def test_half_an_accumulated_step_in_a_users_own_checkpoint_is_done_again(part_folder, tmp_path) -> None:
    """Its gradient is in no checkpoint. Only running statistics, which have seen the batch before, are not the same."""
    case = {"trainer": {"accumulate_grad_batches": 2}, "segmentation": False, "student_steps": 3}

    class HalfWay(Callback):
        def on_train_batch_end(self, trainer, *args) -> None:
            if trainer.fit_loop.total_batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    _, alone = fit(part_folder, tmp_path / "alone", callbacks=[HalfWay()], **case)
    assert torch.load(tmp_path / "half.ckpt", weights_only=True)["global_step"] == 1
    _, resumed = fit(part_folder, tmp_path / "resumed", ckpt_path=tmp_path / "half.ckpt", **case)
    assert same_states(dict(alone.named_parameters()), dict(resumed.named_parameters()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    folder = make_part_folder(root)
    yield folder, root, *fit(folder, root / "results")
    shutil.rmtree(root)


def test_after_a_training_last_is_the_final_checkpoint_and_takes_no_room(finished) -> None:
    _, _, engine, model = finished
    final = Path(engine.best_model_path)
    assert final.with_name("last.ckpt").samefile(final)
    assert same_states(weights(final), model.state_dict())
    assert sorted(path.name for path in final.parent.iterdir()) == ["last.ckpt", "model.ckpt"]


def test_a_test_of_the_last_checkpoint_finds_it(finished) -> None:
    folder, root, _, model = finished
    engine = Engine(default_root_dir=root / "results", accelerator="cpu", devices=1, logger=False)
    other = DeSTSeg(**TINY)
    engine.test(other, datamodule=make_part_data(folder), ckpt_path="last", verbose=False)
    assert same_states(other.state_dict(), model.state_dict())


def test_a_model_that_was_not_resumed_is_tested_from_the_checkpoint_it_is_given(finished, tmp_path) -> None:
    folder, _, trained, model = finished
    engine, other = fit(folder, tmp_path, seed=5)
    assert not same_states(other.state_dict(), model.state_dict())
    engine.test(other, datamodule=make_part_data(folder), ckpt_path=trained.best_model_path, verbose=False)
    assert same_states(other.state_dict(), model.state_dict())


def test_without_any_last_checkpoint_one_sentence_says_so(part_folder, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*last\.ckpt for ckpt_path=last: give a path"):
        fit(part_folder, tmp_path, ckpt_path="last")


def test_a_later_run_without_a_checkpoint_is_passed_over_with_a_warning(finished, tmp_path, caplog) -> None:
    _, _, trained, _ = finished
    shutil.copytree(Path(trained.best_model_path).parent, tmp_path / "v0" / "weights" / "lightning")
    for run in ("v1", "v2"):
        (tmp_path / run).mkdir()
    with caplog.at_level("WARNING"):
        loaded = CheckpointFiles(tmp_path, [], current=tmp_path / "v2").load_checkpoint("last")
    assert loaded["global_step"] == 7
    [warning] = [record.getMessage() for record in caplog.records]
    assert f"goes on, since the run after it, {tmp_path / 'v1'}, has left no checkpoint" in warning


def test_other_arguments_than_before_are_named(finished, tmp_path, caplog) -> None:
    folder, _, trained, _ = finished
    with caplog.at_level("WARNING"):
        fit(folder, tmp_path, ckpt_path=trained.best_model_path, segmentation_steps=6, data={"batch_size": 2})
    assert "goes on with other arguments than it began with" in caplog.text
    assert "segmentation_steps=6 (was 3)" in caplog.text
    assert "train_batch_size=2 (was 4)" in caplog.text
    assert "student_lr=" not in caplog.text


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(tmp_path, monkeypatch) -> None:
    files, path = CheckpointFiles(tmp_path, []), tmp_path / "folder" / "last.ckpt"
    files.save_checkpoint({"state_dict": {"value": torch.ones(3)}}, path)

    def full_disk(checkpoint: Any, part: Path) -> None:
        part.write_bytes(b"half")
        msg = "PytorchStreamWriter failed writing file"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match=r"last\.ckpt cannot be written .*make room"):
            files.save_checkpoint({"state_dict": {"value": torch.zeros(3)}}, path)
    assert torch.equal(weights(path)["value"], torch.ones(3))
    assert list(path.parent.iterdir()) == [path]


def test_checkpoints_take_one_hundredth_of_the_time(part_folder, tmp_path, monkeypatch) -> None:
    """A checkpoint that takes two seconds is written every 200 seconds, here every fourth step of 50 seconds."""
    clock, saved = [0.0], []

    def save(trainer: Any, path: Path, *args: Any, **kwargs: Any) -> None:
        clock[0] += 2
        saved.append(trainer.global_step)

    class Slow(Callback):
        def on_train_batch_start(self, *args) -> None:
            clock[0] += 50

    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(checkpoints, "CLOCK_STEPS", 2)
    monkeypatch.setattr(checkpoints.Trainer, "save_checkpoint", save)
    fit(part_folder, tmp_path, callbacks=[Slow()], student_steps=11, segmentation_steps=1)
    assert saved == [2, 6, 10, 12]  # the last is the engine's own
