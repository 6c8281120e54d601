"""Small pictures of images with boxes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont


def class_color(index: int) -> tuple[int, int, int]:
    """A colour of a class that differs from those of its neighbours."""
    return tuple(round(255 * part) for part in colormaps['tab20'](index % 20)[:3])


def draw_boxes(
    path: str | Path,
    boxes: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    side: int = 480,
) -> bytes:
    """Draws boxes with the names of their classes, and scores where they have some.

    Args:
        path: Image file.
        boxes: Dicts with ``bbox`` (x, y, w, h in pixels), ``category_id`` and perhaps ``score``.
        names: Name of each category.
        side: Length of the longer side of the picture in pixels.

    Returns:
        A JPEG file.

    Raises:
        OSError: If there is no such image or it cannot be read.
    """
    with Image.open(path) as file:
        image = file.convert('RGB')
    scale = side / max(image.size)
    image = image.resize([max(1, round(length * scale)) for length in image.size])
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    position = {category_id: i for i, category_id in enumerate(names)}
    # Low scores first, so that the certain ones lie on top.
    for box in sorted(boxes, key=lambda box: box.get('score', 1.0)):
        x, y, w, h = (value * scale for value in box['bbox'])
        color = class_color(position[box['category_id']])
        canvas.rectangle((x, y, x + max(w, 1), y + max(h, 1)), outline=color, width=2)
        text = str(names[box['category_id']])[:24]
        if 'score' in box:
            text += f' {box["score"]:.2f}'
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        x = min(max(x, 0), max(image.width - right - 4, 0))
        y = max(y - bottom - 3, 0)
        canvas.rectangle((x, y, x + right + 4, y + bottom + 3), fill=color)
        dark = sum(color) > 380
        canvas.text((x + 2, y + 1), text, fill='black' if dark else 'white', font=font)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=82)
    return buffer.getvalue()
