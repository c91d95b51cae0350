# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Train a model of ours through anomalib's engine, test it, and say where heat maps and checkpoint are.

python examples/train.py [--data datasets/my_parts] [--model PFADSeg]
"""

import argparse
from pathlib import Path

from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

import destseg_anomalib
from destseg_anomalib import DemoSurfaces

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder laid out as the README shows; without it, the embedded demo")
    parser.add_argument("--model", default="DeSTSeg", choices=["DeSTSeg", "PFADSeg"])
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    parser.add_argument("--steps", type=int, nargs=2, default=[400, 130], help="of the student, of the segmentation")
    parser.add_argument("--batch", type=int, default=8, help="training images of one step")
    chosen = parser.parse_args()
    seed_everything(0)
    test = {"normal_test_dir": "test/good", "abnormal_dir": "test/defect", "mask_dir": "ground_truth/defect"}
    if chosen.data:
        data = Folder("my_parts", "train/good", chosen.data, **test, train_batch_size=chosen.batch)
    else:
        data = DemoSurfaces(train_batch_size=chosen.batch)
    model = getattr(destseg_anomalib, chosen.model)(
        backbone="tf_efficientnet_lite0",  # its weights come with the extra "offline"
        image_size=(chosen.size, chosen.size),
        student_steps=chosen.steps[0],
        segmentation_steps=chosen.steps[1],
    )
    engine = Engine()
    engine.train(model, datamodule=data)
    images = Path(engine.trainer.default_root_dir) / "images"
    print(f"heat maps and tables: {images}\ncheckpoint: {engine.best_model_path}")
