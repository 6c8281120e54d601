"""Masks on pictures: their outlines, and a light tint inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..instance_masks import decode_mask, run_lengths
from ..mask_outlines import mask_outlines

# The parts of a mask: each its outer outline and those of its holes, (N, 2) in pixels.
Outlines = Sequence[Sequence[np.ndarray]]
# Of 255: how much of the colour is inside of an outline.
_TINT = 70


def outlines_of(masks: Any, width: int) -> list[Outlines]:
    """Returns the outlines of masks, in pixels of a picture.

    Args:
        masks: Masks as predictions or training samples carry them; see
            :mod:`mmdet_dinov2.instance_masks`.
        width: Width of the picture in pixels, which may be larger or smaller than that of the
            masks.
    """
    arrays = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else None
    if arrays is None:
        arrays = (decode_mask(mask) for mask in run_lengths(masks))
    return [_outlines(mask, width / mask.shape[1]) for mask in arrays]


def _outlines(mask: np.ndarray, scale: float) -> Outlines:
    # Corners that are closer together than half a pixel of the picture cannot be seen.
    parts = mask_outlines(mask, tolerance=0.5 / scale)
    return [[outline * scale for outline in part] for part in parts]


def draw_outlines(
    picture: Image.Image,
    masks: Sequence[Outlines],
    colours: Sequence[tuple[int, int, int]],
    width: int,
) -> None:
    """Draws masks into a picture, later ones over earlier ones.

    Args:
        picture: The picture, changed in place.
        masks: The outlines of each mask, in pixels of the picture.
        colours: Colour of each, RGB.
        width: Width of the lines in pixels.
    """
    draw = ImageDraw.Draw(picture)
    for parts, colour in zip(masks, colours, strict=True):
        for outer, *holes in parts:
            _tint(picture, outer, holes, colour)
        for outline in (outline for part in parts for outline in part):
            corners = [*map(tuple, outline.tolist()), tuple(outline[0].tolist())]
            draw.line(corners, fill=colour, width=width, joint='curve')


def _tint(
    picture: Image.Image,
    outer: np.ndarray,
    holes: Sequence[np.ndarray],
    colour: tuple[int, int, int],
) -> None:
    low = np.floor(outer.min(axis=0)).astype(int)
    size = np.maximum(np.ceil(outer.max(axis=0)).astype(int) - low, 1)
    share = Image.new('L', tuple(size.tolist()))
    draw = ImageDraw.Draw(share)
    for outline, amount in ((outer, _TINT), *((hole, 0) for hole in holes)):
        draw.polygon([tuple(corner) for corner in (outline - low).tolist()], fill=amount)
    picture.paste(colour, tuple(low.tolist()), share)
