# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly sources for users without a folder of textures: procedural textures and crops of photographs."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Field = npt.NDArray[np.float32]
"""One value per pixel, shape ``(H, W)``; as a grid, the coordinates x and y of each pixel, shape ``(2, H, W)``."""
Image = npt.NDArray[np.uint8]
"""RGB, shape ``(H, W, 3)``."""

PER_PATTERN = 10
PER_PHOTOGRAPH = 3

# All of these lie inside scikit-image's wheel. The three surfaces of `DemoSurfaces` (brick, grass, gravel) are left
# out, so that nobody trains on the pictures that he tests on; so are small faces, drawings and blurred pictures.
PHOTOGRAPHS = (
    "astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "immunohistochemistry",
    "microaneurysms", "page", "retina", "rocket", "stereo_motorcycle", "text",
)  # fmt: skip


def _unit(field: Field) -> Field:
    """Stretch to [0, 1]."""
    return (field - field.min()) / max(float(np.ptp(field)), 1e-6)


def _fractal(like: Field, rng: np.random.Generator) -> Field:
    """Smooth noise in [0, 1], as large as ``like``: octaves of random grids, the coarse ones louder."""
    height, width = like.shape[-2:]
    coarsest, decay = rng.integers(2, 7), rng.uniform(0.4, 0.8)
    total = np.zeros((height, width), np.float32)
    for octave in range(6):
        values = rng.standard_normal((coarsest * 2**octave + 1,) * 2, dtype=np.float32)
        total += decay**octave * cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
    return _unit(total)


def _turned(grid: Field, rng: np.random.Generator, bend: float) -> tuple[Field, Field]:
    """Coordinates in a random direction, bent by noise of amplitude ``bend``."""
    (x, y), angle = grid, rng.uniform(0, np.pi)
    u = np.cos(angle) * x + np.sin(angle) * y + bend * _fractal(grid, rng)
    v = np.cos(angle) * y - np.sin(angle) * x + bend * _fractal(grid, rng)
    return u.astype(np.float32), v.astype(np.float32)


def _frequency(rng: np.random.Generator) -> float:
    """Periods along the short side of the image, evenly spread over the scales."""
    return float(np.exp(rng.uniform(np.log(3), np.log(40))))


def _wave(t: Field, rng: np.random.Generator) -> Field:
    """A periodic profile in [0, 1] of a phase in periods: smooth, sharp-edged or a ramp."""
    smooth = 0.5 + 0.5 * np.cos(2 * np.pi * t)
    return [smooth, np.clip(0.5 + rng.uniform(2, 8) * (smooth - 0.5), 0, 1), t % 1][rng.integers(3)]


def clouds(grid: Field, rng: np.random.Generator) -> Field:
    """Plain fractal noise, or its contour bands."""
    field = _fractal(grid, rng)
    return field if rng.random() < 0.5 else np.floor(field * rng.integers(4, 12)) % 2 * 0.6 + 0.4 * field


def veins(grid: Field, rng: np.random.Generator) -> Field:
    """Ridges of fractal noise, as in marble."""
    ridge = np.abs(2 * _fractal(grid, rng) - 1) ** rng.uniform(0.3, 0.9)
    return 1 - ridge * (0.5 + 0.5 * _fractal(grid, rng))


def stripes(grid: Field, rng: np.random.Generator) -> Field:
    """Parallel stripes, straight or wavy."""
    u, _ = _turned(grid, rng, rng.choice([0.0, 0.1, 0.4]))
    return 0.8 * _wave(u * _frequency(rng), rng) + 0.2 * _fractal(grid, rng)


def checks(grid: Field, rng: np.random.Generator) -> Field:
    """Two crossing stripe patterns: checks, tartan, grids."""
    u, v = _turned(grid, rng, rng.choice([0.0, 0.05, 0.2]))
    frequency = _frequency(rng)
    a, b = _wave(u * frequency, rng), _wave(v * frequency * rng.uniform(0.5, 2), rng)
    return [np.abs(a - b), a * b, np.maximum(a, b)][rng.integers(3)]


def dots(grid: Field, rng: np.random.Generator) -> Field:
    """Round dots on a grid, of uneven size where the noise is strong."""
    u, v = _turned(grid, rng, rng.choice([0.0, 0.1]))
    frequency = _frequency(rng) / 2
    bumps = np.cos(2 * np.pi * frequency * u) + np.cos(2 * np.pi * frequency * v)
    return np.clip(rng.uniform(1, 6) * (bumps - 1 + 2 * _fractal(grid, rng) * rng.uniform(0, 1)), -1, 1)


def weave(grid: Field, rng: np.random.Generator) -> Field:
    """Threads that pass over and under each other."""
    u, v = (t * _frequency(rng) for t in _turned(grid, rng, 0.02))
    over = (np.floor(u) + np.floor(v)) % 2
    warp, weft = np.sin(np.pi * (u % 1)), 0.7 * np.sin(np.pi * (v % 1))
    return np.where(over > 0, warp, weft) + 0.3 * _fractal(grid, rng)


def cells(grid: Field, rng: np.random.Generator) -> Field:
    """Voronoi cells of random points: mosaic, pebbles or cracks."""
    height, width = grid.shape[1:]
    points = np.ones((height, width), np.uint8)
    amount = int(np.exp(rng.uniform(np.log(30), np.log(900))))
    points[rng.integers(0, height, amount), rng.integers(0, width, amount)] = 0
    distance, label = cv2.distanceTransformWithLabels(points, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    mosaic, dome = rng.random(amount + 1, np.float32)[label], 1 - _unit(distance)
    seams = cv2.morphologyEx(label.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return [mosaic, 0.6 * dome + 0.4 * mosaic, np.where(seams, 0, 0.5 + 0.5 * mosaic)][rng.integers(3)]


def rings(grid: Field, rng: np.random.Generator) -> Field:
    """Growth rings of wood: long ellipses around a centre that may lie outside."""
    u, v = _turned(grid, rng, rng.uniform(0.02, 0.2))
    radius = np.hypot(u - rng.uniform(-1, 1), (v - rng.uniform(-1, 1)) * rng.uniform(0.1, 1))
    return 0.8 * _wave(radius.astype(np.float32) * _frequency(rng), rng) + 0.2 * _fractal(grid, rng)


def speckle(grid: Field, rng: np.random.Generator) -> Field:
    """Grain of one size, soft or cut off at a level: sand, granite, splashes."""
    grain = rng.uniform(0.5, 5) * min(grid.shape[1:]) / 256
    noise = cv2.GaussianBlur(rng.standard_normal(grid.shape[1:], np.float32), (0, 0), grain)
    noise = noise / noise.std() + rng.uniform(0, 1.5) * _fractal(grid, rng)
    return np.clip(rng.choice([1.0, 4.0]) * (noise - rng.uniform(0, 1.2)), -2, 2)


def brush(grid: Field, rng: np.random.Generator) -> Field:
    """Noise drawn out in one direction: brushed metal, hair, bark."""
    u, v = _turned(grid, rng, rng.uniform(0, 0.3))
    strands = rng.standard_normal((256, 256), dtype=np.float32)
    along, across = rng.uniform(4, 12), rng.uniform(40, 120)
    return cv2.remap(strands, along * u, across * v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


Pattern = Callable[[Field, np.random.Generator], Field]
PATTERNS: tuple[Pattern, ...] = (clouds, veins, stripes, checks, dots, weave, cells, rings, speckle, brush)


def _colourise(field: Field, rng: np.random.Generator) -> Image:
    """Map values to a random palette of two to five colours, with shading that is independent of the pattern."""
    amount = rng.integers(2, 6)
    lightness = 255 * rng.beta(0.6, 0.6, (amount, 1))  # contrasts as strong as in photographs of textures
    hue = rng.uniform(0, 110) * rng.uniform(-1, 1, (amount, 3))  # from monochrome to saturated
    stops = np.clip(lightness + hue, 0, 255).astype(np.float32)
    palette = cv2.resize(stops[None], (256, 1), interpolation=cv2.INTER_LINEAR)[0]
    shade = rng.uniform(0.5, 0.9) + 0.4 * _fractal(field, rng)
    colour = palette[(_unit(field) * 255).astype(np.uint8)] * shade[..., None]
    return np.clip(colour, 0, 255).astype(np.uint8)


def _crop(photograph: Image, size: tuple[int, int], rng: np.random.Generator) -> Image:
    """A random window of a fifth to all of the shorter side, resized, turned by quarters, mirrored, tinted."""
    side = int(rng.uniform(0.2, 1) * min(photograph.shape[:2]))
    top, left = (rng.integers(0, n - side + 1) for n in photograph.shape[:2])
    window = np.rot90(photograph[top : top + side, left : left + side], int(rng.integers(4)))[:, :: rng.choice([-1, 1])]
    resized = cv2.resize(np.ascontiguousarray(window), size[::-1], interpolation=cv2.INTER_AREA)
    if resized.ndim == 2:
        return _colourise(resized.astype(np.float32), rng)
    return np.ascontiguousarray(resized[..., rng.permutation(3)])


def builtin_textures(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Make the anomaly sources that stand in for a folder of textures.

    100 procedural textures in ten patterns (clouds, veins, stripes, checks, dots, weave, cells, rings, speckle, brush)
    at random scales and in random colours, then 39 crops of the photographs that scikit-image ships, whose origins
    and licences are listed in the documentation of `skimage.data`. Nothing is downloaded, and the global random state
    is left alone.

    Args:
        size: Height and width in pixels.
        seed: Seed (>= 0); the same seed gives the same textures.

    Returns:
        Textures of shape ``(139, 3, H, W)``, uint8 RGB.

    Example:
        >>> builtin_textures((32, 48)).shape
        torch.Size([139, 3, 32, 48])
    """
    from skimage import data  # noqa: PLC0415 - needed only by users without textures of their own

    rng = np.random.default_rng(seed)
    height, width = size
    grid = np.mgrid[:height, :width][::-1].astype(np.float32) / np.float32(min(size))
    textures = [_colourise(pattern(grid, rng), rng) for pattern in PATTERNS for _ in range(PER_PATTERN)]
    for name in PHOTOGRAPHS:
        loaded = getattr(data, name)()
        photograph = loaded[0] if isinstance(loaded, tuple) else loaded  # a stereo pair: its left image
        textures += [_crop(photograph, size, rng) for _ in range(PER_PHOTOGRAPH)]
    return torch.from_numpy(np.stack(textures)).permute(0, 3, 1, 2).contiguous()
