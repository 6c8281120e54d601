"""Large images with hundreds of small shapes, whose boxes are known exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..errors import InputError
from ..mask_outlines import mask_polygons
from .shapes_drawing import (
    CLASSES,
    MIN_VISIBLE_SHARE,
    Shape,
    add_noise,
    fill_outline,
    paint_background,
    random_color,
    random_outline,
    random_rotation,
    tight_box,
)

_PLACEMENT_TRIES = 20


@dataclass(frozen=True)
class Scene:
    """What a large image looks like.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        num_shapes: Number of shapes to draw.
        smallest: Lower limit of the longer side of their boxes in pixels.
        largest: Upper limit of it.
    """

    width: int = 4000
    height: int = 3000
    num_shapes: int = 500
    smallest: int = 12
    largest: int = 40

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Scene:
        """Reads the settings of a config.

        Raises:
            InputError: If a key is unknown, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise InputError(f'scene has the unknown keys {unknown}; it takes {", ".join(known)}')
        for name, value in settings.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f'scene.{name} must be a whole number of at least 1, but is {value!r}'
                )
        scene = cls(**settings)
        if not 4 <= scene.smallest <= scene.largest < min(scene.width, scene.height):
            raise InputError(
                'scene needs 4 <= smallest <= largest < width and height, but has '
                f'{", ".join(f"{key}={value}" for key, value in asdict(scene).items())}'
            )
        return scene


def draw_scene(
    rng: np.random.Generator, scene: Scene, empty: bool = False
) -> tuple[np.ndarray, list[Shape]]:
    """Draws a large image.

    Args:
        rng: Source of every random choice.
        scene: What to draw.
        empty: Whether to draw the background only.

    Returns:
        The image, (H, W, 3) uint8 BGR, and its shapes from back to front. All of them lie inside
        the image; at least :data:`~.shapes_drawing.MIN_VISIBLE_SHARE` of the pixels of each is
        visible. A shape is left out if no place is found where this holds.
    """
    picture = paint_background(rng, scene.height, scene.width)
    shapes = [] if empty else _place(rng, picture, scene)
    return add_noise(rng, picture), shapes


def _place(rng: np.random.Generator, picture: np.ndarray, scene: Scene) -> list[Shape]:
    """Draws the shapes in place; looks only at the pixels around each."""
    # Index of the front-most shape at every pixel, -1 for the background.
    front = np.full(picture.shape[:2], -1, dtype=np.int32)
    visible: list[int] = []
    shapes: list[Shape] = []
    for _ in range(scene.num_shapes):
        for _ in range(_PLACEMENT_TRIES):
            label = int(rng.integers(len(CLASSES)))
            mask = _small_mask(rng, label, scene)
            height, width = mask.shape
            x = int(rng.integers(scene.width - width + 1))
            y = int(rng.integers(scene.height - height + 1))
            window = front[y : y + height, x : x + width]
            hidden, counts = np.unique(window[mask & (window >= 0)], return_counts=True)
            if all(
                visible[index] - count >= MIN_VISIBLE_SHARE * shapes[index].area
                for index, count in zip(hidden.tolist(), counts.tolist(), strict=True)
            ):
                break
        else:
            continue
        for index, count in zip(hidden.tolist(), counts.tolist(), strict=True):
            visible[index] -= count
        color = random_color(rng, label)
        window[mask] = len(shapes)
        picture[y : y + height, x : x + width][mask] = color
        visible.append(int(mask.sum()))
        polygons = [
            (np.reshape(polygon, (-1, 2)) + (x, y)).ravel().tolist()
            for polygon in mask_polygons(mask)
        ]
        shapes.append(Shape(label, (x, y, width, height), visible[-1], color, polygons))
    return shapes


def _small_mask(rng: np.random.Generator, label: int, scene: Scene) -> np.ndarray:
    """Returns the pixels of a shape within its box, bool."""
    side = math.exp(rng.uniform(math.log(scene.smallest), math.log(scene.largest)))
    points = random_outline(rng, label) @ random_rotation(rng)
    points -= points.min(0)
    # The outline runs through the middle of pixels, which are drawn whole.
    points *= (side - 1) / points.max()
    canvas = fill_outline(points, (scene.largest, scene.largest)).astype(bool)
    x, y, width, height = tight_box(canvas)
    return canvas[y : y + height, x : x + width]
