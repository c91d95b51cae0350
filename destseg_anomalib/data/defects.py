# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Surface defects with exact masks: scratch, spot, dent, stain, and two that are a few pixels small.

Every function takes a grey surface and a random generator and returns the surface with *one* defect and the defect's
mask. A mask is one connected region by construction: the inside of a closed star-shaped outline, or a drawn stroke.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Defect = Callable[[Grey, np.random.Generator], tuple[Grey, Mask]]


def _outline(shape: tuple[int, ...], radius: float, ragged: float, rng: np.random.Generator) -> tuple[Grey, Grey, Grey]:
    """Distance from a random centre in units of a ragged star-shaped outline.

    Args:
        shape: Height and width of the surface.
        radius: Mean radius of the outline, in pixels.
        ragged: Relative size of the bulges and bays, from 0 (an ellipse) to about 0.5.
        rng: Source of the centre, the aspect ratio, the direction and the bulges.

    Returns:
        The distance (0 in the centre, 1 on the outline), and the offsets ``x`` and ``y`` from the centre in pixels.
    """
    height, width = shape
    margin = min(1.1 * radius, 0.45 * min(shape))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x -= rng.uniform(margin, width - margin)
    y -= rng.uniform(margin, height - margin)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = (y * np.cos(angle) - x * np.sin(angle)) / aspect
    theta = np.arctan2(across, along)
    bulges = np.zeros_like(theta)
    for order in range(2, 9):
        bulges += rng.normal(0, ragged / order) * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    distance = np.hypot(along, across) / (radius * np.exp(bulges))
    return distance.astype(np.float32), x, y


def _ramp(distance: Grey, softness: float) -> Grey:
    """Coverage that falls smoothly from 1 inside to 0 at distance 1, over ``softness`` of the radius."""
    t = np.clip((1 - distance) / softness, 0, 1)
    return t * t * (3 - 2 * t)


def scratch(surface: Grey, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """A thin, slightly bent groove: a dark or bright core that tapers off, with a lit burr along one side."""
    height, width = surface.shape
    length = rng.uniform(0.16, 0.55) * min(height, width)
    direction = rng.uniform(0, 2 * np.pi)
    step = np.array([np.cos(direction), np.sin(direction)])
    normal = np.array([-step[1], step[0]])
    start = np.array([width, height]) * rng.uniform(0.2, 0.8, 2) - step * length / 2
    t = np.linspace(0, 1, int(2 * length))
    bend = rng.normal(0, 0.12) * length * 4 * t * (1 - t) + rng.normal(0, 0.8) * np.sin(rng.uniform(6, 14) * t)
    points = start + t[:, None] * step * length + bend[:, None] * normal
    radii = rng.uniform(1.3, 2.6) * np.sin(np.pi * (0.06 + 0.88 * t)) ** 0.4
    core, burr = (np.zeros((height, width), np.uint8) for _ in range(2))
    for (x, y), r in zip(points, radii, strict=True):
        for layer, offset in ((core, 0.0), (burr, 1.0)):
            # OpenCV draws at sub-pixel positions in fixed point: 4 fractional bits are sixteenths of a pixel.
            cx, cy = (np.array([x, y]) + offset * r * normal) * 16
            cv2.circle(layer, (round(cx), round(cy)), round(16 * r), 255, -1, cv2.LINE_AA, 4)
    depth, edge = core.astype(np.float32) / 255, np.clip(burr.astype(np.float32) - core, 0, None) / 255
    strength = rng.choice([-1.0, 1.0], p=[0.6, 0.4]) * rng.uniform(32, 60)
    wear = 0.75 + 0.25 * cv2.resize(rng.uniform(-1, 1, (9, 9)).astype(np.float32), (width, height))
    marked = surface + strength * wear * (depth - 0.6 * edge)
    return marked, np.maximum(depth, edge) >= 0.5


def spot(surface: Grey, rng: np.random.Generator, radius: tuple[float, float] = (6, 15)) -> tuple[Grey, Mask]:
    """A small compact fleck, dark or light, that hides most of the surface under it."""
    distance, _, _ = _outline(surface.shape, rng.uniform(*radius), 0.35, rng)
    cover = _ramp(distance, 0.45) * rng.uniform(0.7, 0.9)
    tone = surface.mean() * rng.choice([rng.uniform(0.3, 0.55), rng.uniform(1.5, 1.8)], p=[0.7, 0.3])
    grain = cv2.GaussianBlur(rng.normal(0, 14, surface.shape).astype(np.float32), (0, 0), 1.2)
    return surface + cover * (tone + grain - surface), distance < 1


def dent(surface: Grey, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """A shallow hollow: lit on one flank, in shade on the other, and the pattern in it pulled towards its centre."""
    radius = rng.uniform(12, 30)
    distance, x, y = _outline(surface.shape, radius, 0.06, rng)
    hollow = np.clip(1 - distance**2, 0, None) ** 1.5
    rows, columns = np.mgrid[: surface.shape[0], : surface.shape[1]].astype(np.float32)
    pull = rng.uniform(0.25, 0.45) * hollow
    bent = cv2.remap(
        surface, columns + pull * x, rows + pull * y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    ).astype(np.float32)
    light = rng.uniform(0, 2 * np.pi)
    slope_y, slope_x = np.gradient(hollow)
    shade = (np.cos(light) * slope_x + np.sin(light) * slope_y) * radius
    return bent * (1 + rng.uniform(0.22, 0.38) * shade - 0.12 * hollow), distance < 1


def stain(surface: Grey, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """A dried liquid: a wide, uneven, see-through darkening with a darker rim."""
    distance, _, _ = _outline(surface.shape, rng.uniform(16, 46), 0.4, rng)
    rim = np.exp(-(((distance - 0.9) / 0.07) ** 2))
    cloud = cv2.resize(
        rng.uniform(0.5, 1, (12, 12)).astype(np.float32), surface.shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    soaked = _ramp(distance, 0.2) * (rng.uniform(0.28, 0.42) * cloud + 0.15 * rim)
    return surface * (1 - soaked), distance < 1


def nick(surface: Grey, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """A scratch of 4 to 13 pixels."""
    return _within(scratch, 17, surface, rng)


def speck(surface: Grey, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """A spot of 4 to 13 pixels."""
    return _within(lambda part, numbers: spot(part, numbers, (1.7, 5)), 32, surface, rng)


def _within(defect: Defect, side: int, surface: Grey, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """Put a defect into a square of a large surface, which takes as long as the square is large."""
    top, left = (int(rng.integers(length - side)) for length in surface.shape)
    part = slice(top, top + side), slice(left, left + side)
    marked, mask = surface.copy(), np.zeros(surface.shape, dtype=bool)
    marked[part], mask[part] = defect(surface[part], rng)
    return marked, mask


SMALL_DEFECTS: dict[str, Defect] = {"nick": nick, "speck": speck}
DEFECTS: dict[str, Defect] = {"dent": dent, "scratch": scratch, "spot": spot, "stain": stain}


def add_defects(surface: Grey, kind: str, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """Put one, two or three separate defects of one kind on a surface.

    Args:
        surface: Grey values of shape ``(H, W)``, float32 in [0, 255], at least 128 pixels a side.
        kind: A key of :data:`DEFECTS` or :data:`SMALL_DEFECTS`.
        rng: Random generator; the same state gives the same defects.

    Returns:
        The marked surface, float32 (it may leave [0, 255] a little), and the mask of shape ``(H, W)``, bool. Each
        defect is one 8-connected region of the mask, with at least two pixels between any two of them.

    Example:
        >>> marked, mask = add_defects(np.full((256, 256), 128, np.float32), "stain", np.random.default_rng(0))
        >>> marked.shape, mask.dtype, bool(mask.any())
        ((256, 256), dtype('bool'), True)
    """
    mask = np.zeros(surface.shape, dtype=bool)
    for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
        marked, region = (DEFECTS | SMALL_DEFECTS)[kind](surface, rng)
        occupied = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        if not (region & occupied).any():  # a defect that would touch another is left out
            surface, mask = marked, mask | region
    return surface, mask
