# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Run an exported model where PyTorch is not installed: `python onnx_without_torch.py model.onnx image.png heat.png`.

The defects are printed as anomalib's `predict` lists them in `defects.csv`, in pixels of the picture, and outlined in
the heat map. The file has its weights beside it, in `model.onnx.data`. The image may have any size: the model resizes
it itself. It is read as in training, without turning it where a camera has marked it as turned; store such pictures
upright.
"""

import sys

import cv2
import numpy as np
import onnxruntime

MIN_AREA = 1  # pixels of the map, as in the model's OperatingPoint

model, image, heat = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
picture = cv2.imread(image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
if picture is None:
    sys.exit(f"The image {image} does not exist or cannot be read: give the path of a picture.")
batch = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255  # 1 x 3 x H x W
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(names, {"input": batch}), strict=True))
print(f"score {found['pred_score'].item():.4f}, {'anomalous' if found['pred_label'].item() else 'normal'}")

anomaly_map = np.squeeze(found["anomaly_map"])
mask = np.squeeze(found["pred_mask"]).astype(np.uint8)
count, labels, boxes, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
down, right = np.divide(picture.shape[:2], mask.shape)
rows = []
for label in range(1, count):  # 0 is what is not predicted
    left, top, width, height, area = boxes[label]
    if area >= MIN_AREA:
        x, y = round(left * right), round(top * down)
        size = max(round((left + width) * right) - x, 1), max(round((top + height) * down) - y, 1)
        centre = ((centres[label] + 0.5) * (right, down) - 0.5).round(1)
        scores = anomaly_map[labels == label]
        rows.append((x, y, *size, *centre, round(area * down * right), scores.max(), scores.mean()))
print("left,top,width,height,centre_x,centre_y,area,highest_score,mean_score")
for row in sorted(rows, key=lambda row: -row[-2]):
    print(*(f"{value:.7g}" for value in row), sep=",")

colours = cv2.applyColorMap((255 * anomaly_map).astype(np.uint8), cv2.COLORMAP_JET)
colours = cv2.resize(colours, picture.shape[1::-1])
outlines, _ = cv2.findContours(cv2.resize(mask, picture.shape[1::-1]), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
cv2.imwrite(heat, cv2.drawContours(colours, outlines, -1, (255, 255, 255)))
