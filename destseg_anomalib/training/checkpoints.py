# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints to continue a training from: written often, whole or not at all, and found by the name `last`.

The position of a training is its number of optimisation steps and nothing else. Which phase it is in, which images come
next and which random numbers go with them all follow from that number and the seed, so a checkpoint needs both of
these, the weights and the momentum, and no state of a random generator.
"""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from destseg_anomalib.data.reading import data_of
from destseg_anomalib.training.acceptance import check_file
from destseg_anomalib.training.contents import same
from destseg_anomalib.training.loans import Loans

logger = logging.getLogger(__name__)

LAST = "last"
TIME_SHARE = 0.01  # of a training may go into writing checkpoints
LEAST_SECONDS = 30.0  # between two of them
CLOCK_STEPS = 10  # between two looks at the clock, on which all devices must agree


class CheckpointFiles(AnomalibCheckpointIO):
    """Writes a checkpoint whole or not at all, and knows which one `--ckpt_path last` means.

    Lightning writes into the system's temporary folder and moves the file, which on another disk is a copy that a kill
    can cut short. Here the file is written beside its final place and renamed.

    Args:
        runs: Folder that holds anomalib's numbered runs `v0`, `v1`, ... of one model and data set.
        extra_safe_globals: Types that may be loaded beside tensors and plain data.
        current: Folder of the run at hand, which cannot have a checkpoint yet.
    """

    def __init__(self, runs: Path, extra_safe_globals: list[Any], current: Path | None = None) -> None:
        super().__init__(extra_safe_globals)
        self.runs = runs
        self.current = current and current.resolve()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: Where; an address such as `s3://` is left to Lightning.
            storage_options: Not used.

        Raises:
            OSError: If it cannot be written, in which case a file that was there before is still whole.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        part = Path(f"{path}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, part)
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            msg = f"The checkpoint {path} cannot be written ({error}): make room or choose another folder, and resume."
            raise OSError(msg) from error
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: Its path; `last`, if there is no such file, is the checkpoint written last in any of the runs.
            map_location: Device to put tensors on.
            weights_only: Not used: anything but tensors and plain data is refused, whoever asks for it.

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If it is damaged, is no checkpoint of Lightning's, or would run code.
        """
        del weights_only
        if Path(path).name == LAST and not Path(path).exists():
            path = self._find_last()
        if "://" not in str(path):
            check_file(path)
        return super().load_checkpoint(path, map_location, weights_only=True)

    def _find_last(self) -> Path:
        pattern = f"v*/weights/lightning/{LAST}.ckpt"
        found = sorted(self.runs.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
        if not found:
            msg = f"There is no checkpoint {self.runs / pattern} for ckpt_path=last: give a path, or train without it."
            raise FileNotFoundError(msg)
        logger.info("The last checkpoint is %s.", found[-1])
        later = [run for run in self.runs.glob("v*") if run.name[1:].isdigit() and run.resolve() != self.current]
        later = [run for run in later if int(run.name[1:]) > int(found[-1].relative_to(self.runs).parts[0][1:])]
        if later:
            logger.warning("%s goes on, since the run after it, %s, has left no checkpoint.", found[-1], min(later))
        return found[-1]


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` beside the checkpoint of anomalib's engine, so that a killed training can go on from it.

    It is written anew at the end of a step as soon as the time since the one before is a hundred times what that took,
    and 30 seconds at least: a kill costs a minute or so, and checkpoints cost less than 1 % of the time, on a slow disk
    and a fast device as well. The step that ends a training is left to the engine, since validation still follows it;
    then `last.ckpt` is another name of the engine's file and takes no room. A training that ends early, or without a
    validation, is kept all the same.
    """

    def __init__(self) -> None:
        self._due = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._due = time.monotonic() + LEAST_SECONDS

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Write the checkpoint if it is time."""
        del pl_module, outputs, batch
        step = trainer.global_step
        mid_step = (batch_idx + 1) % trainer.accumulate_grad_batches
        engine = engine_checkpoint(trainer)
        if engine is None or mid_step or step % CLOCK_STEPS or step >= trainer.max_steps:
            return
        start = time.monotonic()
        if trainer.strategy.broadcast(start >= self._due):
            trainer.save_checkpoint(Path(engine.dirpath) / f"{LAST}.ckpt", weights_only=False)
            end = time.monotonic()
            self._due = end + max(LEAST_SECONDS, (end - start) / TIME_SHARE)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the end of the training, also where it came early or nothing was validated, as `last` and `model`."""
        del pl_module
        engine = engine_checkpoint(trainer)
        if engine is None:
            return
        last, final = Path(engine.dirpath) / f"{LAST}.ckpt", Path(engine.dirpath) / "model.ckpt"
        if engine.monitor is not None or engine.filename != final.stem:  # a user's, who decides what it keeps
            trainer.save_checkpoint(last, weights_only=False)
            return
        if engine._last_global_step_saved != trainer.global_step:  # it saves after validations only
            trainer.save_checkpoint(final, weights_only=False)
            engine.best_model_path = str(final)
        if trainer.is_global_zero:
            _name_twice(Path(engine.best_model_path), last)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what a scheduler stops by SIGTERM, which Lightning heeds between two batches."""
        del pl_module
        engine = engine_checkpoint(trainer)
        mid_step = (
            trainer.fit_loop.total_batch_idx % trainer.accumulate_grad_batches != trainer.accumulate_grad_batches - 1
        )
        if isinstance(exception, SIGTERMException) and trainer.training and engine is not None and not mid_step:
            trainer.save_checkpoint(Path(engine.dirpath) / f"{LAST}.ckpt", weights_only=False)


def _name_twice(file: Path, name: Path) -> None:
    """Give a file a second name, in place of whatever bore it."""
    part = name.with_name(f"{name.name}.part")
    with contextlib.suppress(OSError):  # a disk without hard links keeps the checkpoint of before the end
        part.unlink(missing_ok=True)
        part.hardlink_to(file)
        part.replace(name)


def engine_checkpoint(trainer: Trainer) -> Any:  # noqa: ANN401  its folder is optional in the type, and set by then
    """Return the callback that writes the engine's checkpoint; None where nothing is to be written."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)


def use_checkpoint_files(trainer: Trainer, loans: Loans) -> None:
    """Let a trainer read and write its checkpoints by `CheckpointFiles`, unless the user chose another way.

    Args:
        trainer: The trainer, whose strategy has been made.
        loans: Gives it its own way back.
    """
    files: Any = trainer.strategy.checkpoint_io
    if type(files) is AnomalibCheckpointIO:
        run = Path(trainer.default_root_dir)
        loans.lend(trainer.strategy, "checkpoint_io", CheckpointFiles(run.parent, files.extra_safe_globals, run))


def serves_whole_phases(trainer: Trainer) -> bool:
    """Say whether an epoch is a phase; the user may shorten epochs, by a share or by a number of batches."""
    return isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches == 1.0


def rest_between_steps(checkpoint: dict[str, Any], trainer: Trainer, epoch: int, steps: int) -> None:
    """Set the progress of Lightning's loops in a checkpoint to the rest between two optimisation steps.

    Lightning saves in the middle of what follows a batch, and continues differently from a checkpoint of mid-epoch, of
    the last batch of an epoch, of between accumulated batches. From this rest it continues in one way. The accumulated
    batches of a step that had not been taken are served again; `LastCheckpoint` never saves between them, since running
    statistics have seen them.

    Args:
        checkpoint: A checkpoint of Lightning's, changed in place; left alone if it has no loops or the user shortens
            epochs.
        trainer: The trainer that resumes it.
        epoch: Epochs that are complete.
        steps: Optimisation steps of the epoch at hand that are done.
    """
    if "loops" not in checkpoint or not serves_whole_phases(trainer):
        return

    def done(count: int, *, begun: int = 0) -> dict[str, int]:
        return {"ready": count + begun, "started": count + begun, "processed": count, "completed": count}

    fit_loop, accumulated = checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches
    epochs = done(epoch, begun=int(steps > 0))
    fit_loop["epoch_progress"] = {"total": epochs, "current": dict(epochs)}
    total, current = done(checkpoint["global_step"] * accumulated), done(steps * accumulated)
    fit_loop["epoch_loop.batch_progress"] = {"total": total, "current": current, "is_last_batch": False}
    fit_loop["epoch_loop.state_dict"] = {"_batches_that_stepped": checkpoint["global_step"]}


def batch_layout(trainer: Trainer) -> dict[str, int]:
    """Say what the images of each batch depend on, beside the seed."""
    return {
        "train_batch_size": getattr(data_of(trainer), "train_batch_size", 0),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "devices": trainer.world_size,
    }


def forget_time(checkpoint: dict[str, Any]) -> None:
    """Let `max_time` count the time of each command and not of all of them, or the same command would train no further.

    Args:
        checkpoint: A checkpoint of Lightning's, changed in place.
    """
    for name in [name for name in checkpoint.get("callbacks", {}) if name.startswith(Timer.__qualname__)]:
        del checkpoint["callbacks"][name]


def warn_of_changes(
    checkpoint: dict[str, Any], arguments: dict[str, Any], batches: dict[str, int], images: str | None
) -> None:
    """Warn if a training goes on with other arguments, or images, than it began with.

    Args:
        checkpoint: The checkpoint of the training that began.
        arguments: Arguments of the model that goes on.
        batches: Its `batch_layout`.
        images: What has changed about its images.
    """
    before = checkpoint["hyper_parameters"] | checkpoint.get("training", {}).get("batches", {})
    now = arguments | batches
    changed = [
        f"{name}={now[name]!r} (was {before.get(name)!r})" for name in now if not same(before.get(name), now[name])
    ]
    if images is not None:
        changed.append(images)
    if changed:
        logger.warning(
            "The training goes on with other arguments than it began with, and will not end as it would have: %s. "
            "Learning rates stay those of the checkpoint.",
            ", ".join(changed),
        )
