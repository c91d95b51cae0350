# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Two processes train one model, with the strategy a user would write.

As a program with the arguments PARTS, OUT and DEVICES, this file trains two steps of each phase, on batches of 8 images
in all, and leaves what each process saw in OUT.
"""

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import make_part_folder
from tests.integration.test_cli import ARGUMENTS, COMMAND, data_arguments

STEPS = 2


def train(parts: Path, out: Path, devices: int) -> None:
    """Train with anomalies and normalisation that are functions of the image alone, not of the batch or the device."""
    from anomalib.engine import Engine
    from lightning.pytorch import Callback, seed_everything
    from torch import nn

    from destseg_anomalib import DeSTSeg
    from destseg_anomalib.synthesis import SyntheticBatch
    from tests.conftest import make_part_data

    class Observed(DeSTSeg):
        def on_fit_start(self) -> None:
            super().on_fit_start()
            draw = self.generator

            def corrupt(images: torch.Tensor, generator: torch.Generator) -> SyntheticBatch:
                seen.append(draw(images, generator).mask)
                mask = torch.zeros_like(images[:, :1])
                mask[:, :, :16, :16] = 1
                return SyntheticBatch(images, torch.lerp(images, 1 - images, mask), mask)

            self.generator = corrupt

        def _enter_phase(self) -> bool:
            student_phase = super()._enter_phase()
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return student_phase

        def on_validation_start(self) -> None:
            statistics = next(name for name in self.average.averaged if name.endswith("running_mean"))
            self.average.averaged[statistics] += self.trainer.global_rank  # as if each had seen other images
            super().on_validation_start()

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            losses.append(outputs["loss"].item())
            states.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    seen, losses, states = [], [], []
    seed_everything(1)
    network = {"backbone": "test_resnet", "pre_trained": False, "encoder_decoder": False, "image_size": (64, 64)}
    model = Observed(**network, student_steps=STEPS, segmentation_steps=STEPS)
    engine = Engine(
        default_root_dir=out / "results",
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=False,
        callbacks=[Losses()],
        enable_progress_bar=False,
        precision="64-true",  # in float32 one small weight is off by 1.07e-5 on some processors
    )
    engine.fit(model, datamodule=make_part_data(parts, batch_size=8 // devices))
    left = model.model.state_dict()
    outcome = {"losses": losses, "masks": seen, "states": states, "left": left}
    torch.save(outcome, out / f"{engine.trainer.global_rank}.pt")


@pytest.fixture(scope="module")
def outcomes(forks, tmp_path_factory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process on batches of 8 saw, and what each of two processes on batches of 4 saw."""
    root = tmp_path_factory.mktemp("distributed")
    parts = make_part_folder(root)
    one, two = root / "one", root / "two"
    one.mkdir()
    two.mkdir()
    train(parts, one, 1)
    done = forks.run_pair(__file__, str(parts), str(two), "2", folder=root)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [torch.load(path, weights_only=True) for path in (one / "0.pt", two / "0.pt", two / "1.pt")]
    shutil.rmtree(root)  # states of the network after every step
    return seen[0], seen[1:]


def test_the_loss_of_two_times_four_images_is_that_of_one_times_eight(outcomes) -> None:
    one, two = outcomes
    together = torch.tensor([process["losses"] for process in two]).mean(dim=0)
    assert len(one["losses"]) == 2 * STEPS
    assert together.tolist() == pytest.approx(one["losses"], rel=1e-5)
    assert two[0]["losses"] != two[1]["losses"]  # each has images of its own


def test_the_weights_of_two_processes_are_those_of_one(outcomes) -> None:
    """So the averaged gradient is the gradient of the batch of 8, in both phases."""
    one, two = outcomes
    first = one["states"][0]
    for step, expected in enumerate(one["states"]):
        for name, value in two[0]["states"][step].items():
            assert torch.equal(value, two[1]["states"][step][name])
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(value, one["states"][-1][name]) for name, value in first.items())


def test_two_processes_leave_the_average_that_one_leaves(outcomes) -> None:
    one, two = outcomes
    for name, value in two[0]["left"].items():
        assert torch.equal(value, two[1]["left"][name])
        torch.testing.assert_close(value, one["left"][name], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(value, one["states"][-1][name]) for name, value in one["left"].items())


def test_with_two_processes_too_a_phase_changes_no_bit_of_the_other_network(outcomes) -> None:
    _, two = outcomes
    states = two[1]["states"]
    for before, after in itertools.pairwise(states):
        changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert changed in ({"student"}, {"segmentation"})


def test_processes_synthesise_different_anomalies(outcomes) -> None:
    _, two = outcomes
    for mine, other in zip(two[0]["masks"], two[1]["masks"], strict=True):
        assert mine.shape == other.shape == (4, 1, 64, 64)
        assert not torch.equal(mine, other)


def test_train_command_with_two_processes_trains_tests_and_leaves_one_checkpoint(forks, tmp_path) -> None:
    parts = make_part_folder(tmp_path)
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    command = ["train", "--model", "PFADSeg", *ARGUMENTS, *data_arguments(parts), *devices]
    done = forks.run(COMMAND, *command, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pixel_AP" in done.stdout
    [checkpoint] = tmp_path.rglob("model.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
