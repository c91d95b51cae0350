# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Why pandas is held below 3: a text column without a value holds NaN there, which anomalib takes for a path."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from anomalib.data import MVTec3D, MVTecAD2, MVTecLOCO

SETS = {
    MVTecLOCO: {
        "images": ["train/good/000", "validation/good/000", "test/good/000", "test/logical_anomalies/000"],
        "masks": ["ground_truth/logical_anomalies/000/000"],
    },
    MVTecAD2: {
        "images": [f"{split}/000_regular" for split in ("train/good", "validation/good", "test_public/good")]
        + ["test_public/bad/000_regular"],
        "masks": ["test_public/ground_truth/bad/000_regular_mask"],
    },
    MVTec3D: {
        "images": [f"{split}/rgb/000" for split in ("train/good", "validation/good", "test/good", "test/hole")],
        "masks": [f"{split}/gt/000" for split in ("test/good", "test/hole")],
        "depths": [f"{split}/xyz/000" for split in ("train/good", "validation/good", "test/good", "test/hole")],
    },
}


@pytest.mark.parametrize("cls", SETS)
def test_every_image_of_anomalibs_sets_is_read(cls: type, tmp_path: Path) -> None:
    kinds = {"images": ((32, 32, 3), "png"), "masks": ((32, 32), "png"), "depths": ((32, 32, 3), "tiff")}
    for kind, names in SETS[cls].items():
        shape, suffix = kinds[kind]
        for name in names:
            path = tmp_path / "part" / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full(shape, 255 * (kind == "masks"), np.uint8))
    data = cls(root=tmp_path, category="part", num_workers=0)
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert len([path for batch in loader for path in batch.image_path]) == len(loader.dataset) > 0
