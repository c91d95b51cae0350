# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Compare a model of ours with bundled ones on the demo set, one protocol for all, as `anomalib benchmark` does.

python examples/run_benchmark.py [--models DeSTSeg Patchcore Stfpm]
"""

import argparse
from pathlib import Path

import yaml
from jsonargparse import Namespace

from destseg_anomalib.benchmark.pipeline import Benchmark

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["DeSTSeg", "Patchcore"], choices=["DeSTSeg", "Patchcore", "Stfpm"]
    )
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    parser.add_argument("--steps", type=int, nargs=2, default=[120, 60], help="of DeSTSeg's student, and segmentation")
    parser.add_argument("--results", default="results/benchmark/example")
    chosen = parser.parse_args()
    student_steps, segmentation_steps = chosen.steps
    backbone = {"backbone": "tf_efficientnet_lite0"}  # its weights come with the extra "offline"
    bundled = {"init_args": backbone | {"layers": ["blocks.2", "blocks.4"]}, "backbone_weights": "offline"}
    steps = {"student_steps": student_steps, "segmentation_steps": segmentation_steps}
    models = {
        "DeSTSeg": {"class_path": "DeSTSeg", "init_args": backbone | steps},
        "Patchcore": {"class_path": "Patchcore", **bundled},
        "Stfpm": {"class_path": "Stfpm", **bundled, "trainer": {"max_epochs": 10}},
    }
    data = {"class_path": "DemoSurfaces", "init_args": {"train_batch_size": 8}}
    protocol = {"results": chosen.results, "image_size": [chosen.size] * 2, "latency_seconds": 1}
    benchmark = {"seed": 0, "model": {"grid": [models[name] for name in chosen.models]}, "data": data}
    config = Path("compare.yaml")
    config.write_text(yaml.safe_dump({"protocol": protocol, "benchmark": benchmark}), encoding="utf-8")
    Benchmark().run(Namespace(config=config))
