# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The other side of the speed benchmarks: synthesis, training step and forward as the official DeSTSeg loop does them.

Written from a description of what the official DeSTSeg loop computes, on our networks, so that the two sides differ in
how the work is done and in nothing else:

* every sample is decoded, resized and rotated by Pillow when it is asked for, and so is its texture;
* Perlin noise and blending are NumPy in float64, image by image;
* all three networks run in both phases, and the teacher runs twice: on the clean and on the corrupted images;
* in phase 2 gradients flow into the student, although nobody steps it;
* the pooled branch of the atrous pyramid is upsampled and convolved like the others;
* tensors keep PyTorch's plain layout.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.optim import SGD

from destseg_anomalib.models.blocks import PartlyPooledConv
from destseg_anomalib.models.losses import focal_loss, l1_loss, loss_mask
from destseg_anomalib.models.similarity import cosine_distance, l2_normalize
from destseg_anomalib.models.student_teacher import StudentTeacherModel
from destseg_anomalib.synthesis import Rotation

Picture = np.ndarray


def draw_mask(size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Draw one mask (H, W), 0 or 1: Perlin noise of random scales, turned by up to 90 degrees, above one half."""
    scales = 2 ** rng.integers(0, 6, 2)
    angles = rng.uniform(0, 2 * np.pi, (scales[0] + 1, scales[1] + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    lattice = np.mgrid[: size[0], : size[1]].transpose(1, 2, 0) * (scales / size)
    cell = lattice.astype(int)
    within = lattice - cell
    fade = 6 * within**5 - 15 * within**4 + 10 * within**3
    noise = np.zeros(size)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        gradient = gradients[cell[..., 0] + corner[0], cell[..., 1] + corner[1]]
        height = (gradient * (within - corner)).sum(axis=-1)
        noise += height * np.where(corner, fade, 1 - fade).prod(axis=-1)
    turn = cv2.getRotationMatrix2D(((size[1] - 1) / 2, (size[0] - 1) / 2), rng.uniform(-90, 90), 1)
    turned = cv2.warpAffine(np.sqrt(2) * noise, turn, size[::-1], flags=cv2.INTER_LINEAR)
    return (turned > 0.5).astype(np.float64)


def read(path: Path, size: tuple[int, int]) -> Image.Image:
    """Decode and resize one picture."""
    return Image.open(path).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)


def turn(image: Image.Image, rotation: Rotation, rng: np.random.Generator) -> Image.Image:
    """Rotate a picture as its category's class wants it, in one or two resamplings."""
    grey = (114, 114, 114)
    if rotation == "full":
        image = image.rotate(90 * rng.integers(4), Image.Resampling.BILINEAR, fillcolor=grey)
    if rotation != "none":
        image = image.rotate(rng.uniform(-5, 5), Image.Resampling.BILINEAR, fillcolor=grey)
    return image


def corrupt(image: Picture, texture: Picture, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Blend a texture into an image (H, W, 3), both uint8; returns the image in [0, 1] and the mask (H, W, 1)."""
    mask = draw_mask(image.shape[:2], rng)[..., None]
    clean, source = image / 255, texture / 255 * mask
    keep = 0.8 * rng.random()
    return clean * (1 - mask) + keep * clean * mask + (1 - keep) * source, mask


class OfficialStyleLoop:
    """Training as the official loop does it.

    Args:
        model: Networks to train, in PyTorch's plain layout.
        images: Training images.
        textures: Anomaly sources.
        size: Height and width in pixels.
        rotation: How training images are rotated.
        batch_size: Images of one batch.
        bf16: Whether the networks run under bfloat16 autocast.
    """

    def __init__(
        self,
        model: StudentTeacherModel,
        images: list[Path],
        textures: list[Path],
        size: tuple[int, int],
        rotation: Rotation,
        batch_size: int,
        bf16: bool,
    ) -> None:
        self.model = plain(model)
        self.images, self.textures, self.size, self.rotation = images, textures, size, rotation
        self.batch_size, self.bf16 = batch_size, bf16
        self.rng = np.random.default_rng(0)
        network = model.segmentation
        heads = [{"params": network.residual.parameters()}, {"params": network.head.parameters(), "lr": 0.01}]
        self.student_optimizer = SGD(model.student.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)
        self.segmentation_optimizer = SGD(heads, lr=0.1, momentum=0.9, weight_decay=1e-4)

    def sample(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read one image and one texture; returns clean and corrupted image, normalised, and the mask."""
        path, texture = self.rng.choice(self.images), self.rng.choice(self.textures)
        image = np.asarray(turn(read(path, self.size), self.rotation, self.rng))
        corrupted, mask = corrupt(image, np.asarray(read(texture, self.size)), self.rng)
        tensors = (
            torch.from_numpy(np.ascontiguousarray(p.transpose(2, 0, 1), dtype=np.float32))
            for p in (image / 255, corrupted, mask)
        )
        clean, corrupted, mask = tensors
        mean, std = self.model.mean[0], self.model.std[0]
        return (clean - mean) / std, (corrupted - mean) / std, mask

    def batch(self) -> tuple[torch.Tensor, ...]:
        """Read a batch, sample by sample."""
        samples = (self.sample() for _ in range(self.batch_size))
        return tuple(torch.stack(tensors) for tensors in zip(*samples, strict=True))

    def step(self, phase: int) -> torch.Tensor:
        """Train one batch in phase 1 (student) or 2 (segmentation network); returns the loss."""
        clean, corrupted, mask = self.batch()
        self.model.student.train(phase == 1)
        self.model.segmentation.train(phase == 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits, distances = forward(self.model, clean, corrupted)
        small = loss_mask(mask, logits.shape[-2:])
        losses = sum(d.mean(dim=(1, 2, 3)).sum() for d in distances), focal_loss(logits, small) + l1_loss(logits, small)
        self.student_optimizer.zero_grad()
        self.segmentation_optimizer.zero_grad()
        losses[phase - 1].backward()
        (self.student_optimizer if phase == 1 else self.segmentation_optimizer).step()
        return losses[phase - 1].detach()


def plain(model: StudentTeacherModel) -> StudentTeacherModel:
    """Give a model PyTorch's plain layout, and take back what ours spares in a convolution."""

    def convolve(layer: PartlyPooledConv, constant: torch.Tensor, varying: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([constant.expand(-1, -1, *varying.shape[-2:]), varying], dim=1)
        return functional.conv2d(maps, layer.weight, padding=1)

    for layer in model.modules():
        if isinstance(layer, PartlyPooledConv):
            layer.forward = partial(convolve, layer)
    return model.to(memory_format=torch.contiguous_format)


def forward(
    model: StudentTeacherModel, clean: torch.Tensor, corrupted: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run the teacher on both images, the student on the corrupted one, and the segmentation network.

    Args:
        model: The networks.
        clean: Normalised images (N, 3, H, W), float32.
        corrupted: The same with anomalies; in a test the same images.

    Returns:
        Logits (N, 1, H / 4, W / 4) and the cosine distances (N, 1, H_i, W_i) of the three levels.
    """
    teacher, student = ([l2_normalize(f) for f in network(corrupted)] for network in (model.teacher, model.student))
    products = [-t * s for t, s in zip(teacher, student, strict=True)]
    size = products[0].shape[-2:]
    logits = model.segmentation(torch.cat([functional.interpolate(p, size, mode="bilinear") for p in products], dim=1))
    wanted = [l2_normalize(f) for f in model.teacher(clean)]
    return logits, [cosine_distance(t, s) for t, s in zip(wanted, student, strict=True)]


@torch.no_grad()
def predict(model: StudentTeacherModel, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images (N, 3, H, W) in [0, 1]: the map (N, 1, H, W) and the mean of its 100 highest pixels, by a sort."""
    normalized = (images - model.mean) / model.std
    logits, distances = forward(model, normalized, normalized)
    size = images.shape[-2:]
    for distance in distances:  # the map of the student alone, which the official test always makes, too
        functional.interpolate(distance, size, mode="bilinear")
    anomaly_map = functional.interpolate(logits.sigmoid(), size, mode="bilinear")
    highest = anomaly_map.flatten(start_dim=1).sort(dim=1, descending=True).values[:, :100]
    return anomaly_map, highest.mean(dim=1)
