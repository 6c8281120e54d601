"""Images of simple shapes with exactly known boxes and outlines."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..mask_outlines import mask_polygons

CLASSES = ('circle', 'rectangle', 'triangle', 'star', 'cross')

# Fraction of a shape's pixels that must stay inside the image, uncovered by later shapes.
MIN_VISIBLE_SHARE = 0.7

LONG_SIDE = (120, 260)
MAX_ASPECT_RATIO = 2.0
# Of a shape, relative to the shorter side of the image.
RADIUS = (0.16, 0.36)
MAX_ROTATION = math.radians(12)
# Hue of each class in degrees, and by how much a shape may differ. Since classes have their own
# colours, a small model learns to tell them apart within minutes.
HUES = (0, 120, 230, 55, 290)
HUE_JITTER = 12

_PLACEMENT_TRIES = 20
# Rows that get their noise at once, which takes several floats for each pixel.
_NOISE_ROWS = 256
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Shape:
    """One drawn shape.

    Attributes:
        label: Index into :data:`CLASSES`.
        box: Tight ``(x, y, w, h)`` in pixels around the part of the shape inside the image,
            including pixels that later shapes cover.
        area: Number of pixels of that part.
        color: Fill colour, BGR in 0..255.
        polygons: Outline of the same part, as polygons ``x, y, x, y, ...`` in pixels that cover
            exactly its pixels.
    """

    label: int
    box: tuple[int, int, int, int]
    area: int
    color: tuple[int, int, int]
    polygons: Sequence[Sequence[float]] = ()


def draw_picture(rng: np.random.Generator, num_shapes: int) -> tuple[np.ndarray, list[Shape]]:
    """Draws an image of random size with up to ``num_shapes`` shapes on a noisy background.

    Args:
        rng: Source of every random choice.
        num_shapes: Number of shapes to try. A shape is left out if no place is found where it and
            all earlier ones stay visible.

    Returns:
        The image, (H, W, 3) uint8 BGR, and its shapes from back to front.
    """
    height, width = sample_size(rng)
    picture = paint_background(rng, height, width)
    shapes = place_shapes(rng, picture, num_shapes)
    return add_noise(rng, picture), shapes


def sample_size(rng: np.random.Generator) -> tuple[int, int]:
    """Chooses ``(height, width)`` in pixels: landscape, portrait or square, also odd sizes."""
    long_side = int(rng.integers(LONG_SIDE[0], LONG_SIDE[1] + 1))
    short_side = round(long_side / rng.uniform(1.05, MAX_ASPECT_RATIO))
    orientation = rng.choice(['landscape', 'portrait', 'square'], p=[0.5, 0.3, 0.2])
    if orientation == 'square':
        return long_side, long_side
    if orientation == 'portrait':
        return long_side, short_side
    return short_side, long_side


def paint_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Paints a colour gradient with soft blotches, (height, width, 3) uint8 BGR."""
    # Greyish, so that coloured shapes stand out.
    start, end = rng.uniform(70, 185, size=(2, 1)) + rng.uniform(-15, 15, size=(2, 3))
    angle = rng.uniform(0, 2 * math.pi)
    ramp = np.linspace(0, math.sin(angle), height)[:, None] + np.linspace(0, math.cos(angle), width)
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    gradient = cv2.merge([a + (b - a) * ramp for a, b in zip(start, end, strict=True)])
    blotches = rng.uniform(-15, 15, size=(6, 6, 3))
    blotches = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(gradient + blotches, 0, 255).astype(np.uint8)


def add_noise(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Adds Gaussian noise of random strength to a (H, W, 3) uint8 image."""
    deviation = rng.uniform(1, 6)
    noisy = np.empty_like(picture)
    for row in range(0, len(picture), _NOISE_ROWS):
        rows = picture[row : row + _NOISE_ROWS]
        noise = rng.standard_normal(rows.shape, dtype=np.float32) * deviation
        noisy[row : row + _NOISE_ROWS] = np.clip(rows + noise, 0, 255)
    return noisy


def place_shapes(rng: np.random.Generator, picture: np.ndarray, count: int) -> list[Shape]:
    """Draws up to ``count`` shapes into ``picture`` in place, keeping each one visible.

    Args:
        rng: Source of every random choice.
        picture: (H, W, 3) uint8 BGR.
        count: Number of shapes to try.

    Returns:
        The drawn shapes from back to front. At least :data:`MIN_VISIBLE_SHARE` of the pixels of
        each is visible.
    """
    # Index of the front-most shape at every pixel, -1 for the background.
    front = np.full(picture.shape[:2], -1, dtype=np.int8)
    full_areas: list[int] = []
    shapes: list[Shape] = []
    for _ in range(count):
        for _ in range(_PLACEMENT_TRIES):
            label = int(rng.integers(len(CLASSES)))
            mask, full_area = _random_mask(rng, label, picture.shape[:2])
            candidate = np.where(mask, len(shapes), front)
            seen = np.bincount(candidate[candidate >= 0], minlength=len(shapes) + 1)
            needed = MIN_VISIBLE_SHARE * np.array([*full_areas, full_area])
            if (seen >= needed).all():
                break
        else:
            continue
        color = random_color(rng, label)
        picture[mask] = color
        front = candidate.astype(np.int8)
        full_areas.append(full_area)
        shapes.append(
            Shape(
                label=label,
                box=tight_box(mask),
                area=int(mask.sum()),
                color=color,
                polygons=mask_polygons(mask),
            )
        )
    return shapes


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns ``(x, y, w, h)`` in pixels of the true pixels of a (H, W) mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def _random_mask(
    rng: np.random.Generator, label: int, size: tuple[int, int]
) -> tuple[np.ndarray, int]:
    """Returns the (H, W) bool mask of a randomly placed shape and its area before clipping."""
    height, width = size
    smallest, largest = (share * min(size) for share in RADIUS)
    radius = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
    # Near enough to the border to be cut by it sometimes, but rarely beyond recognition.
    center = rng.uniform(radius / 2, (width - radius / 2, height - radius / 2))
    rotation = random_rotation(rng)
    # The margin holds what extends beyond the image, so that the full area can be counted.
    margin = math.ceil(largest) + 2
    points = random_outline(rng, label) @ rotation * radius + center + margin
    canvas = fill_outline(points, (height + 2 * margin, width + 2 * margin))
    clipped = canvas[margin : margin + height, margin : margin + width].astype(bool)
    return clipped, int(canvas.sum())


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Returns a matrix, (2, 2), that turns points by up to :data:`MAX_ROTATION`."""
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def fill_outline(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a canvas of ``(height, width)``, uint8, that is 1 inside of an outline, else 0.

    Args:
        points: Corners in pixels, (N, 2) as ``x, y``.
        size: Height and width.
    """
    canvas = np.zeros(size, dtype=np.uint8)
    fixed_point = np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(canvas, [fixed_point], 1, shift=_SUBPIXEL_BITS)
    return canvas


def random_outline(rng: np.random.Generator, label: int) -> np.ndarray:
    """Returns the corners of a shape of a class inside the unit circle, (N, 2) as ``x, y``."""
    name = CLASSES[label]
    if name == 'circle':
        return _on_circle(np.linspace(0, 2 * math.pi, 48, endpoint=False))
    if name == 'rectangle':
        half_diagonal = math.atan(rng.uniform(0.35, 1.0))
        return _on_circle(
            np.array(
                [half_diagonal, math.pi - half_diagonal, math.pi + half_diagonal, -half_diagonal]
            )
        )
    if name == 'triangle':
        return _on_circle(np.arange(3) * 2 * math.pi / 3 + rng.uniform(-0.3, 0.3, size=3))
    if name == 'star':
        lengths = np.tile([1.0, rng.uniform(0.38, 0.5)], 5)
        return _on_circle(np.arange(10) * math.pi / 5) * lengths[:, None]
    arm = rng.uniform(0.22, 0.34)
    reach = math.sqrt(1 - arm**2)
    quarter = np.array([[arm, reach], [arm, arm], [reach, arm]])
    turn = np.array([[0, -1], [1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def random_color(rng: np.random.Generator, label: int) -> tuple[int, int, int]:
    """Chooses a bright BGR colour around the hue of a class."""
    hue = (HUES[label] + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 360
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, rng.uniform(0.65, 1), rng.uniform(0.7, 1))
    return round(255 * blue), round(255 * green), round(255 * red)
