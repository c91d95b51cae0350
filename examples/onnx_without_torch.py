# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Run an exported model where PyTorch is not installed: `python onnx_without_torch.py model.onnx image.png heat.png`.

The file has its weights beside it, in `model.onnx.data`. The image may have any size: the model resizes it itself. It
is read as in training, without turning it where a camera has marked it as turned; store such pictures upright.
"""

import sys

import cv2
import numpy as np
import onnxruntime

model, image, heat = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
picture = cv2.imread(image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
if picture is None:
    sys.exit(f"The image {image} does not exist or cannot be read: give the path of a picture.")
picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
batch = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255  # 1 x 3 x height x width, in [0, 1]
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(names, {"input": batch}), strict=True))
print(f"score {found['pred_score'].item():.4f}, {'anomalous' if found['pred_label'].item() else 'normal'}")
cv2.imwrite(heat, cv2.applyColorMap((255 * found["anomaly_map"][0, 0]).astype(np.uint8), cv2.COLORMAP_JET))
