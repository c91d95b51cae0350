# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Export a checkpoint: pictures of any size go in as they are, in [0, 1]; score, map, label and mask come out.

python examples/export.py results/DeSTSeg/DemoSurfaces/brick/latest/weights/lightning/model.ckpt
"""

import argparse
from pathlib import Path

from anomalib.deploy import ExportType
from anomalib.engine import Engine

import destseg_anomalib

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", default="DeSTSeg", choices=["DeSTSeg", "PFADSeg"])
    parser.add_argument("--type", type=ExportType, default=ExportType.ONNX, choices=list(ExportType))
    parser.add_argument("--out", type=Path, default=Path("exported"))
    chosen = parser.parse_args()
    model = getattr(destseg_anomalib, chosen.model).load_from_checkpoint(chosen.checkpoint)
    print(f"written: {Engine().export(model, chosen.type, export_root=chosen.out)}")
