# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Give a model that anomalib bundles our evaluator: figures from raw maps, and a table of the defects it misses.

python examples/evaluate_bundled.py [--model Padim]
"""

import argparse
from pathlib import Path

import anomalib.models
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import seed_everything
from torchvision.transforms.v2 import Compose, Normalize

from destseg_anomalib import DemoSurfaces, RawMapEvaluator, RoundedBilinearResize

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Padim", help="any bundled model that takes a backbone")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--untrained", action="store_true", help="random features, without a download")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    chosen = parser.parse_args()
    seed_everything(0)
    imagenet = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    model = getattr(anomalib.models, chosen.model)(
        backbone=chosen.backbone,
        pre_trained=not chosen.untrained,
        pre_processor=PreProcessor(Compose([RoundedBilinearResize((chosen.size, chosen.size)), imagenet])),
        evaluator=RawMapEvaluator(),
    )
    engine = Engine()
    engine.train(model, datamodule=DemoSurfaces())
    print(f"heat maps and tables: {Path(engine.trainer.default_root_dir) / 'images'}")
