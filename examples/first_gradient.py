# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How well conditioned the first step of a student is: its gradient, and what bfloat16 leaves of it.

    python examples/first_gradient.py --data datasets/MVTecAD/bottle --weights resnet18.safetensors

Without ``--data`` the demo set is used, without ``--weights`` a teacher with random weights. One batch of eight
pictures of 64 x 64 goes through phase 1 of both models, of PFADSeg without AFF, and of PFADSeg whose AFF begins as
that of its source, not as the plain sum. Mean over five seeds of the weights and anomalies.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from benchmark_speed import open_data
from benchmark_synthesis import machine

from destseg_anomalib import DeSTSeg, PFADSeg
from destseg_anomalib.models.pfadseg.attention import AttentionalFeatureFusion
from destseg_anomalib.synthesis import AnomalyGenerator, SyntheticBatch, texture_bank
from destseg_anomalib.transforms import RoundedBilinearResize

SIZE = (64, 64)
MODELS = {  # their arguments, and whether AFF begins as in its source
    "DeSTSeg": (DeSTSeg, {}, False),
    "PFADSeg": (PFADSeg, {}, False),
    "PFADSeg without AFF": (PFADSeg, {"aff": False}, False),
    "PFADSeg, AFF beginning as in its source": (PFADSeg, {}, True),
}


class Gradient(NamedTuple):
    """Norm of a student's gradient, share of its square in the first convolution, cosine with bfloat16's."""

    norm: float
    first: float
    cosine: float


def begin_as_source(model: torch.nn.Module) -> None:
    """Have every AFF begin with weights that are sigmoids of noise."""
    for layer in model.modules():
        if isinstance(layer, AttentionalFeatureFusion):
            for attention in (layer.local_attention, layer.global_attention):
                torch.nn.init.ones_(attention[-1].weight)


def first_gradient(model: torch.nn.Module, batch: SyntheticBatch) -> Gradient:
    """Differentiate the first step of phase 1 in both precisions."""
    found = []
    for bf16 in (False, True):
        model.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.student_loss(batch.clean, batch.corrupted)
        loss.backward()
        found.append([weight.grad.flatten() for weight in model.student.parameters()])
    first = model.student.encoder.conv1.weight.numel()
    float32, bfloat16 = (torch.cat(parts) for parts in found)
    share = float32[:first].square().sum() / float32.square().sum()
    cosine = torch.nn.functional.cosine_similarity(float32, bfloat16, dim=0)
    return Gradient(float(float32.norm()), float(share), float(cosine))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a category in MVTec AD's layout")
    parser.add_argument("--weights", type=Path, help="file of teacher weights")
    parser.add_argument("--textures", help="folder of pictures for anomalies")
    parser.add_argument("--backbone", default="resnet18.tv_in1k")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        data, _ = open_data(arguments.data, 8, Path(root))
        images = torch.stack([RoundedBilinearResize(SIZE)(data.train_data[place].image) for place in range(8)])
    generator = AnomalyGenerator(texture_bank(arguments.textures, SIZE))
    print(machine())
    print("\n| | gradient | of its square, first convolution | cosine of bfloat16 |\n|---|---|---|---|")
    for name, (model_class, switches, as_source) in MODELS.items():
        found = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            weights = {"backbone_weights": arguments.weights, "pre_trained": arguments.weights is not None}
            model = model_class(arguments.backbone, **weights, **switches).model
            if as_source:
                begin_as_source(model)
            found.append(first_gradient(model, generator(images, torch.Generator().manual_seed(seed))))
        norm, first, cosine = map(statistics.mean, zip(*found, strict=True))
        print(f"| {name} | {norm:.0f} | {first:.0%} | {cosine:.2f} |", flush=True)


if __name__ == "__main__":
    main()
