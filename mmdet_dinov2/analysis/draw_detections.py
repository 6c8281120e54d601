"""Pictures with the boxes of detections.

mmdet's visualizer draws with matplotlib, which takes seconds for a photo of 8 megapixels, and lines
and letters have a fixed number of pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from ..data.palette import class_colours

# Shares of the longer side of the picture.
_LINE_WIDTH = 1 / 400
_FONT_SIZE = 1 / 60
_MIN_FONT_SIZE = 11


def draw_detections(
    image: np.ndarray, instances: InstanceData, classes: Sequence[str]
) -> np.ndarray:
    """Draws boxes with class and score, the best on top.

    Args:
        image: H x W x 3, uint8, BGR.
        instances: ``bboxes`` (n x 4: x1, y1, x2, y2 in pixels), ``labels`` and, for detections,
            ``scores``.
        classes: Class names, in the order of the labels.

    Returns:
        A new picture, H x W x 3, uint8, BGR.
    """
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    draw = ImageDraw.Draw(picture)
    longer = max(picture.size)
    width = max(2, round(longer * _LINE_WIDTH))
    font = _font(max(_MIN_FONT_SIZE, round(longer * _FONT_SIZE)))
    colours = class_colours(len(classes))
    boxes, labels = instances.bboxes.tolist(), instances.labels.tolist()
    scores = instances.scores.tolist() if 'scores' in instances else [None] * len(boxes)
    order = sorted(range(len(boxes)), key=lambda index: scores[index] or 0)
    for index in order:
        x1, y1, x2, y2 = boxes[index]
        corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        draw.rectangle(corners, outline=colours[labels[index]], width=width)
    for index in order:
        text = str(classes[labels[index]])
        if scores[index] is not None:
            text += f' {100 * scores[index]:.0f}'
        _draw_label(draw, boxes[index], text, font, colours[labels[index]], picture.size)
    return np.ascontiguousarray(np.asarray(picture)[..., ::-1])


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    font: ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Writes on a ground of the colour of the box: above it, or inside where there is no room."""
    width = draw.textlength(text, font=font) + font.size * 0.4
    height = font.size * 1.2
    left = max(0, min(box[0], size[0] - width))
    top = box[1] - height if box[1] >= height else max(box[1], 0)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    middle = (left + width / 2, top + height / 2)
    draw.text(middle, text, fill='black' if luminance > 140 else 'white', font=font, anchor='mm')


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont('DejaVu Sans'), size)
