# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What folding and compiling gain for one picture, and what compiling changes in its map.

    python examples/benchmark_compiled.py

Networks have random weights, which changes no time. What is folded is what a test, a prediction and an exported file
ask; it is compiled as `model.model.compile()` has it compiled. A few minutes, most of them the compiler's.
"""

import argparse
from collections.abc import Iterator

import torch
from benchmark_synthesis import machine
from gpu_check import MODELS, PRECISIONS, build, timed
from torch import nn

from destseg_anomalib.deployment.inference import inference_copy


def row(name: str, label: str, image: torch.Tensor, count: int = 30, **compiler: object) -> str:
    """Time a model in one precision, and compare its map with the compiled one's."""
    network = build(name).model.eval().to(image.device)
    nn.init.normal_(network.segmentation.head[-1].weight)  # an untrained map is nearly constant
    folded = inference_copy(network)
    with torch.inference_mode(), torch.autocast(image.device.type, torch.bfloat16, enabled=PRECISIONS[label]):
        taken = [timed(lambda asked=asked: asked(image), image.device, count) for asked in (network, folded)]
        expected = folded(image).anomaly_map.float()
        torch._dynamo.reset()
        folded.compile(**compiler)
        taken.append(timed(lambda: folded(image), image.device, count))
        off = (folded(image).anomaly_map.float() - expected).abs().max() / (expected.max() - expected.min())
    return f"| {name} | {label} | {' | '.join(f'{ms:.1f}' for ms in taken)} | {off:.0e} |"


def table(image: torch.Tensor, **settings: object) -> Iterator[str]:
    """Lines of the table."""
    height, width = image.shape[-2:]
    yield f"\n| one picture of {height} x {width} | | as trained, ms | folded, ms | and compiled, ms | off |"
    yield "|---|---|---|---|---|---|"
    for name in MODELS:
        for label in PRECISIONS:
            yield row(name, label, image, **settings)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    arguments = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    print(machine())
    for line in table(torch.rand(1, 3, arguments.size, arguments.size, device=device)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
