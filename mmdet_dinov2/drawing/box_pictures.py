"""Pictures with boxes and masks: detections, annotations, thumbnails for HTML pages.

mmdet's visualizer draws with matplotlib, which takes seconds for a photo of 8 megapixels, and its
lines and letters have a fixed size in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw

from .fonts import TextFont, warn_of_missing
from .mask_drawing import Outlines, draw_outlines, outlines_of
from .palette import class_colours

# As shares of the longer side of the picture.
_LINE_WIDTH = 1 / 400
_FONT_SIZE = 1 / 60
_MIN_FONT_SIZE = 12
_MAX_NAME = 24
_NO_CLASS = (128, 128, 128)


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    dashed: Sequence[bool] | None = None,
    masks: Sequence[Outlines] | None = None,
) -> Image.Image:
    """Draws boxes with texts: later boxes over earlier ones, all texts on top.

    A box outside the image gets no text.

    Args:
        image: H x W x 3, uint8, RGB.
        boxes: n x 4, x1, y1, x2, y2 in pixels.
        labels: Class of each box, which chooses the colour; -1 is grey.
        texts: Text of each box.
        dashed: Whether each box is drawn with a dashed line; by default none is.
        masks: Outlines of the mask of each box in pixels, drawn below all boxes.

    Returns:
        A new picture of the same size.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) * _LINE_WIDTH))
    font_size = label_font_size(picture.size)
    warn_of_missing(texts)
    palette = class_colours(max(labels, default=-1) + 1)
    colours = [palette[label] if label >= 0 else _NO_CLASS for label in labels]
    if masks is not None:
        draw_outlines(picture, masks, colours, width)
    corners = np.asarray(boxes, dtype=float).reshape(-1, 2, 2)
    corners = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    # Pillow cannot draw far outside the picture, where nothing would be visible anyway.
    corners = corners.clip(-2 * width, np.tile(picture.size, 2) + 2 * width).tolist()
    for index, (box, colour) in enumerate(zip(corners, colours, strict=True)):
        if dashed is not None and dashed[index]:
            _draw_dashed(draw, box, colour, width)
        else:
            draw.rectangle(box, outline=colour, width=width)
    for box, text, colour in zip(corners, texts, colours, strict=True):
        if box[0] < picture.width and box[1] < picture.height and min(box[2:]) >= 0:
            _draw_label(draw, box, TextFont(text, font_size), colour, picture.size)
    return picture


def draw_detections(
    image: np.ndarray, instances: InstanceData, classes: Sequence[str]
) -> np.ndarray:
    """Draws boxes with their classes and scores, the highest score on top.

    Args:
        image: H x W x 3, uint8, BGR.
        instances: ``bboxes`` (n x 4: x1, y1, x2, y2 in pixels), ``labels``, for detections
            ``scores``, and ``masks``, if there are any, of the size of the image or larger.
        classes: Class names, in the order of the labels; a label without a name is drawn as a
            number.

    Returns:
        A new picture, H x W x 3, uint8, BGR.
    """
    boxes = np.array(get_box_tensor(instances.bboxes).tolist()).reshape(-1, 4)
    labels = instances.labels.tolist()
    warn_of_missing(classes)  # all at once
    names = [classes[label] if label < len(classes) else f'class {label}' for label in labels]
    scores = instances.scores.tolist() if 'scores' in instances else [None] * len(boxes)
    order = sorted(range(len(boxes)), key=lambda index: scores[index] or 0)
    masks = outlines_of(instances.masks, image.shape[1]) if 'masks' in instances else None
    picture = draw_boxes(
        cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB),
        boxes[order],
        [labels[index] for index in order],
        [_text(names[index], scores[index]) for index in order],
        masks=None if masks is None else [masks[index] for index in order],
    )
    return cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)


def draw_small(
    image: np.ndarray,
    boxes: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    side: int = 480,
    dashed: Sequence[bool] | None = None,
) -> bytes:
    """Draws boxes with their classes, and scores if they have any, into a small copy of an image.

    Args:
        image: H x W x 3, uint8, BGR.
        boxes: Dicts with ``bbox`` (x, y, w, h in pixels), ``category_id`` and optionally
            ``score`` and ``mask``, run lengths of the size of the image.
        names: Name of each category, in the order of the labels.
        side: Length of the longer side of the picture in pixels.
        dashed: Whether each box is drawn with a dashed line; by default none is.

    Returns:
        The content of a JPEG file.
    """
    warn_of_missing(map(str, names.values()))
    scale = side / max(image.shape[:2])
    small = Image.fromarray(np.ascontiguousarray(image[..., ::-1])).resize(
        [max(1, round(length * scale)) for length in image.shape[1::-1]]
    )
    order = sorted(range(len(boxes)), key=lambda index: boxes[index].get('score', 1.0))
    boxes = [boxes[index] for index in order]
    corners = np.array([box['bbox'] for box in boxes], dtype=float).reshape(-1, 4) * scale
    corners[:, 2:] += corners[:, :2]
    label_of = {category_id: label for label, category_id in enumerate(names)}
    picture = draw_boxes(
        small,
        corners,
        [label_of[box['category_id']] for box in boxes],
        [_text(names[box['category_id']], box.get('score')) for box in boxes],
        None if dashed is None else [dashed[index] for index in order],
        [outlines_of([box['mask']], small.width)[0] if 'mask' in box else () for box in boxes],
    )
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=82)
    return buffer.getvalue()


def _text(name: str, score: float | None) -> str:
    """Returns the class and the score in percent."""
    name = str(name)[:_MAX_NAME]
    return name if score is None else f'{name} {100 * score:.0f}'


def _draw_dashed(
    draw: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, int, int], width: int
) -> None:
    """Draws the border of a box with dashes of twice the line width."""
    x1, y1, x2, y2 = box
    for x in np.arange(x1, x2, 4 * width):
        for y in (y1, y2 - width + 1):
            draw.rectangle((x, y, min(x + 2 * width, x2), y + width - 1), fill=colour)
    for y in np.arange(y1, y2, 4 * width):
        for x in (x1, x2 - width + 1):
            draw.rectangle((x, y, x + width - 1, min(y + 2 * width, y2)), fill=colour)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: TextFont,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Writes on the colour of the box: above it, or inside it where there is no room above."""
    width = text.length + text.size * 0.4
    height = text.size * 1.2
    left = max(0, min(box[0], size[0] - width))
    top = box[1] - height if box[1] >= height else max(box[1], 0)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    left += (width - text.length) / 2
    text.draw(draw, left, top + height / 2, 'black' if luminance > 140 else 'white')


def label_font_size(size: Sequence[int]) -> int:
    """Returns the height of letters in a picture of this width and height, all in pixels."""
    return max(_MIN_FONT_SIZE, round(max(size) * _FONT_SIZE))
