# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The folder of a run: what a training has left there, or nothing, where a start has failed."""

import contextlib
from pathlib import Path

from lightning.pytorch import Trainer

from destseg_anomalib.metrics.last_line import say
from destseg_anomalib.training.checkpoints import engine_checkpoint


def drop_empty_run(trainer: Trainer) -> None:
    """Remove anomalib's folder of a run that has left no file, and let `latest` lead to the run before again.

    Args:
        trainer: The trainer after a training, in whichever way it has ended.
    """
    run = Path(trainer.default_root_dir)
    numbered = run.name[1:].isdigit() and run.name.startswith("v")
    if not numbered or not trainer.is_global_zero or any(path.is_file() for path in run.rglob("*")):
        return
    with contextlib.suppress(OSError):  # another process may have written there just now, which is then kept
        for folder in sorted((path for path in run.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        run.rmdir()
        latest = run.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
            before = [path for path in run.parent.glob("v*") if path.name[1:].isdigit()]
            if before:
                latest.symlink_to(max(before, key=lambda path: int(path.name[1:])), target_is_directory=True)


def say_what_is_left(trainer: Trainer, progress: tuple[int, int]) -> None:
    """Say, as the last line of a training, how far it came and where its weights are.

    Args:
        trainer: The trainer, after the training.
        progress: Steps that the model was trained for, and how many of them the student was to have.
    """
    engine = engine_checkpoint(trainer)
    if engine is not None and trainer.is_global_zero and not trainer.barebones and engine.best_model_path:
        say(f"Trained {progress[0]} steps, the student in {min(progress)} of them: {engine.best_model_path}")
