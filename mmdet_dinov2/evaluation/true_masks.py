"""The masks of annotations as run lengths, which detected masks are compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..data.annotation_columns import AnnotationColumns
from ..data.usable_masks import usable_mask
from ..instance_masks import RunLengths


def true_mask(
    segmentation: Any, box: Sequence[float], height: int, width: int
) -> tuple[RunLengths, bool]:
    """Returns the mask of an annotation, and whether it is known.

    Args:
        segmentation: As files have it.
        box: ``x, y, width, height`` in pixels, whose pixels stand for a mask that is not known.
        height: Height of the image in pixels.
        width: Its width.
    """
    mask, _ = usable_mask(segmentation, width, height)
    if mask is None:
        return coco_mask.frPyObjects(np.asarray([box], dtype=float), height, width)[0], False
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, height, width)), True
    if isinstance(mask['counts'], list):
        return coco_mask.frPyObjects(mask, height, width), True
    return dict(size=mask['size'], counts=mask['counts'].encode()), True


def masks_of_file(
    columns: AnnotationColumns, rows: np.ndarray
) -> tuple[list[RunLengths], np.ndarray]:
    """Returns the masks of annotations of a file, and which of them are known.

    Args:
        columns: The file, with segmentations.
        rows: Positions of annotations of listed images, (M,).

    Returns:
        M masks as run lengths, and (M,) bool.
    """
    masks, known = [], np.zeros(len(rows), dtype=bool)
    for place, row in enumerate(rows.tolist()):
        image = int(columns.image_index[row])
        raw = columns.segmentations.raw(row)
        height, width = int(columns.heights[image]), int(columns.widths[image])
        segmentation = json.loads(raw) if raw else None
        mask, known[place] = true_mask(segmentation, columns.boxes[row], height, width)
        masks.append(mask)
    return masks, known


def masks_of_instances(
    instances: Sequence[Mapping[str, Any]], height: int, width: int
) -> tuple[list[RunLengths], list[bool]]:
    """Returns the masks of annotations as mmdet's datasets give them, and which are known.

    Args:
        instances: Annotations with ``bbox`` as corners and, where it is known, ``mask``.
        height: Height of the image in pixels.
        width: Its width.
    """
    found = []
    for instance in instances:
        x1, y1, x2, y2 = instance['bbox']
        found.append(true_mask(instance.get('mask'), (x1, y1, x2 - x1, y2 - y1), height, width))
    return [mask for mask, _ in found], [known for _, known in found]
