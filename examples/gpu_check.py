# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Is a GPU kept busy? What a step and a picture take, and what of it is not the networks.

    python examples/gpu_check.py

On a GPU, in a few minutes: agreement with the CPU, steps that never wait, the engine's step beside that of the networks
alone, and pictures of our models beside Patchcore, EfficientAd and SuperSimpleNet. On any machine, what can be counted
without a GPU: operations of a forward, bytes that a step copies to the device, and the time that all else takes around
networks that are next to nothing. Networks have random weights, which changes no time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from anomalib.engine import Engine
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel
from benchmark_synthesis import machine
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import destseg_anomalib
from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.data import DemoSurfaces
from destseg_anomalib.deployment.inference import inference_copy
from destseg_anomalib.synthesis import AnomalyGenerator, TextureBank
from destseg_anomalib.synthesis.generator import SyntheticBatch
from destseg_anomalib.training.batches import as_floats

MODELS = ("DeSTSeg", "PFADSeg")
BACKBONE = "resnet18"
PRECISIONS = {"float32": False, "bfloat16": True}
SMALL_RATES = dict.fromkeys(("student_lr", "segmentation_lr", "head_lr"), 1e-9)  # random networks bear no others
Model = DeSTSeg | PFADSeg


class Traffic(TorchDispatchMode):
    """Counts operations without views, and bytes that leave the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        """Count one."""
        del types
        result = func(*args, **(kwargs or {}))
        self.operations += not func.is_view
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[func is torch.ops.aten.copy_.default]
            if source.device.type == "cpu" != result.device.type:
                self.copied += source.nbytes
        return result


def build(name: str, **arguments: object) -> Model:
    """Build a model with random weights."""
    torch.manual_seed(0)
    return getattr(destseg_anomalib, name)(backbone=BACKBONE, pre_trained=False, **arguments)


def operations(network: nn.Module) -> int:
    """Count the operations of a forward."""
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), Traffic() as traffic:
        network(image)
    return traffic.operations


def copied_bytes(batch: int, size: int) -> dict[str, int]:
    """Count what a step copies to a GPU, which need not be there: a fake one computes shapes alone."""
    copied = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name, place in (("images, read from disk", "cpu"), ("images, kept on the device", "cuda:0")):
            images = [torch.zeros(3, size, size, dtype=torch.uint8, device=place)] * batch
            with Traffic() as traffic:
                images_there = as_floats(torch.stack(images).to("cuda:0"))
            copied[name] = traffic.copied
        bank = TextureBank(torch.zeros(10, 3, size, size, dtype=torch.uint8, device="cuda:0"))
        generator = AnomalyGenerator(bank, rotation="full")
        generator(images_there, torch.Generator())  # makes tables that are kept
        with Traffic() as traffic:
            generator(images_there, torch.Generator())
    return copied | {"random numbers of the synthesis": traffic.copied}


class Tiny(nn.Module):
    """A network that is next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StepTimes(Callback):
    """When each step ended; without networks to speak of where `tiny` is set."""

    def __init__(self, *, tiny: bool = False) -> None:
        self.tiny = tiny
        self.ends: list[float] = []

    def on_train_start(self, _: Trainer, pl_module: LightningModule) -> None:
        """Take out what is not to be timed."""
        if self.tiny:
            pl_module.generator = lambda images, _: SyntheticBatch(images, images, images[:, :1])

    def on_train_batch_end(self, *_: object) -> None:
        """Note the time, without waiting for a GPU: it falls behind for a few steps, and then sets the pace."""
        self.ends.append(time.perf_counter())


def engine_steps(model: Model, times: StepTimes, batch: int, folder: Path, precision: str) -> list[float]:
    """Train through the engine on the demo; return milliseconds of a step in phase 1 and in phase 2."""
    steps = model.hparams.student_steps
    data = DemoSurfaces(root=folder, train_batch_size=batch, num_workers=0)
    engine = Engine(
        default_root_dir=folder, callbacks=[times], precision=precision, devices=1, logger=False, limit_val_batches=0
    )
    engine.fit(model, datamodule=data)
    taken = [1000 * (after - before) for before, after in zip(times.ends, times.ends[1:], strict=False)]
    return [statistics.mean(part[len(part) // 2 :]) for part in (taken[: steps - 1], taken[steps:])]


def around_a_step(steps: int = 200) -> list[float]:
    """Milliseconds of all that is neither networks, losses, optimiser nor synthesis, in phase 1 and in phase 2."""
    model = build("DeSTSeg", image_size=(32, 32), student_steps=steps, segmentation_steps=steps)
    network = model.model
    network.student = Tiny()
    network.segmentation.residual, network.segmentation.head = Tiny(), Tiny()
    network.student_loss = lambda *_: network.student.weight.sum()
    network.segmentation_losses = lambda *_: {
        "focal": network.segmentation.residual.weight.sum(),
        "l1": network.segmentation.head.weight.sum(),
    }
    model.hparams.average_weights = False
    with tempfile.TemporaryDirectory() as folder:
        return engine_steps(model, StepTimes(tiny=True), 8, Path(folder), "32-true")


def counted(batch: int, size: int) -> Iterator[str]:
    """Lines of what needs no GPU."""
    yield "\n| operations of a forward, without views | in training | folded, elsewhere |\n|---|---|---|"
    for name in MODELS:
        network = build(name).model.eval()
        yield f"| {name} | {operations(network)} | {operations(inference_copy(network))} |"
    yield f"\n| copied to the device in a step of {batch} at {size} x {size} | bytes |\n|---|---|"
    for name, count in copied_bytes(batch, size).items():
        yield f"| {name} | {count:,} |"
    yield "\n| a step without networks, losses, optimiser and synthesis, progress bar included | ms |\n|---|---|"
    yield from (f"| phase {phase} | {taken:.2f} |" for phase, taken in enumerate(around_a_step(), start=1))


def timed(function: Callable[[], object], device: torch.device, count: int = 30) -> float:
    """Milliseconds of a call, of many in a row."""
    for _ in range(max(count // 5, 2)):
        function()
    wait(device)
    start = time.perf_counter()
    for _ in range(count):
        function()
    wait(device)
    return (time.perf_counter() - start) / count * 1000


def wait(device: torch.device) -> None:
    """Wait for a device other than the CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def parity(device: torch.device, size: int) -> Iterator[str]:
    """Lines on how far the device's maps are from the CPU's."""
    yield "\n| largest difference of a map from the CPU's in float32, share of its range | float32 | bfloat16 |"
    yield "|---|---|---|"
    images = torch.rand(4, 3, size, size)
    for name in MODELS:
        network, cells = build(name).model.eval(), []
        with torch.inference_mode():
            expected = network(images).anomaly_map
            network.to(device)
            for half in PRECISIONS.values():
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    off = (network(images.to(device)).anomaly_map.cpu() - expected).abs().max()
                cells.append(f"{off / (expected.max() - expected.min()):.0e}")
        yield f"| {name} | {' | '.join(cells)} |"


def bare_steps(model: Model, device: torch.device, batch: int, size: int, *, half: bool, count: int) -> list[float]:
    """Milliseconds of networks, losses and optimiser alone, in phase 1 and in phase 2; on a GPU they may not wait."""
    network = model.model.to(device).train()
    images, mask = torch.rand(batch, 3, size, size, device=device), torch.zeros(batch, 1, size, size, device=device)
    optimizer = model.configure_optimizers()

    def step(phase: int) -> None:
        network.student.train(phase == 0)
        network.segmentation.train(phase == 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = (
                [network.student_loss(images, images)]
                if phase == 0
                else [*network.segmentation_losses(images, mask, 4).values()]
            )
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    taken = []
    for phase in (0, 1):
        step(phase)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        step(phase)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        taken.append(timed(lambda phase=phase: step(phase), device, count))
    return taken


def steps(device: torch.device, batch: int, size: int, count: int = 30) -> Iterator[str]:
    """Lines on the engine's steps beside those of the networks alone."""
    yield f"\n| a step of {batch} at {size} x {size} | precision | phase | networks alone, ms | engine, ms | ratio |"
    yield "|---|---|---|---|---|---|"
    for name in MODELS:
        for label, half in PRECISIONS.items():
            alone = bare_steps(build(name), device, batch, size, half=half, count=count)
            length = {"student_steps": 2 * count, "segmentation_steps": 2 * count}
            model = build(name, image_size=(size, size), **length, **SMALL_RATES)
            with tempfile.TemporaryDirectory() as folder:
                precision = "bf16-mixed" if half else "32-true"
                engine = engine_steps(model, StepTimes(), batch, Path(folder), precision)
            for phase, (left, right) in enumerate(zip(alone, engine, strict=True), start=1):
                yield f"| {name} | {label} | {phase} | {left:.1f} | {right:.1f} | {right / left:.2f} |"


def bundled() -> dict[str, Callable[[], nn.Module]]:
    """Models of anomalib by name, as they are when a picture is asked about."""

    def patchcore() -> nn.Module:
        model = PatchcoreModel(["layer2", "layer3"], pre_trained=False)
        model.memory_bank = torch.randn(27_340, 1536)  # a tenth of the patches of 267 pictures
        return model

    return {"Patchcore": patchcore, "EfficientAd-S": EfficientAdModel, "SuperSimpleNet": SupersimplenetModel}


def pictures(device: torch.device, size: int, *, compiled: bool = True, count: int = 30) -> Iterator[str]:
    """Lines on one picture and on many, ours beside bundled models, eager and compiled."""
    yield f"\n| pictures of {size} x {size} | precision | | one, ms | images/s in batches of 32 |"
    yield "|---|---|---|---|---|"
    ours = {name: lambda name=name: inference_copy(build(name).model) for name in MODELS}
    create = timm.create_model
    for name, make in (ours | bundled()).items():
        with patch("timm.create_model", lambda *args, **kwargs: create(*args, **kwargs | {"pretrained": False})):
            network = make().eval().to(device)
        one, many = torch.rand(1, 3, size, size, device=device), torch.rand(32, 3, size, size, device=device)
        for way in ("eager", "compiled")[: 1 + compiled]:
            if way == "compiled":
                network.compile(mode="reduce-overhead")
            for label, half in PRECISIONS.items():
                with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                    single = timed(lambda network=network, one=one: network(one), device, count)
                    batch = timed(lambda network=network, many=many: network(many), device, max(count // 3, 1))
                yield f"| {name} | {label} | {way} | {single:.2f} | {32_000 / batch:.0f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    arguments = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True)
    print(machine() if device is None else f"{machine()}, {torch.get_device_module(device).get_device_name(device)}")
    lines = counted(arguments.batch, arguments.size)
    if device is None:
        print("There is no GPU here: this is what can be counted without one.")
        sections = [lines]
    else:
        sections = [lines, parity(device, arguments.size), steps(device, arguments.batch, arguments.size)]
        sections.append(pictures(device, arguments.size))
    for section in sections:
        for line in section:
            print(line, flush=True)


if __name__ == "__main__":
    main()
