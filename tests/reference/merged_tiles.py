"""Merging of detections in tiles, box by box."""

from __future__ import annotations


def merge(parts, tiles, shape, size, overlap, whole=(), most=1000, iou_threshold=0.5):
    """Returns the kept detections, the best first.

    Args:
        parts: For each tile a list of (box, score, label), boxes as corners in pixels.
        tiles: Corners of each tile.
        shape: Height and width of the image.
        size: Size of the tiles.
        overlap: Share of it by which they overlap.
        whole: Detections in the image as a whole.
        most: Largest number of detections.
        iou_threshold: As for NMS.
    """
    entries = []
    for part, tile in zip(parts, tiles, strict=True):
        near = 0.01 * max(tile[2] - tile[0], tile[3] - tile[1])
        for box, score, label in part:
            cut = False
            for axis in (0, 1):
                cut |= tile[axis] > 0 and box[axis] < tile[axis] + near
                end = shape[1 - axis]
                cut |= tile[axis + 2] < end and box[axis + 2] > tile[axis + 2] - near
            entries.append((box, score, label, cut))
    for box, score, label in whole:
        if max(box[2] - box[0], box[3] - box[1]) > int(size * overlap):
            entries.append((box, score, label, False))
    entries = [
        entry
        for entry in entries
        if not entry[3] or not any(_explains(other, entry) for other in entries)
    ]
    kept = []
    for box, score, label, _ in sorted(entries, key=lambda entry: -entry[1]):
        if all(k[2] != label or _iou(k[0], box) <= iou_threshold for k in kept):
            kept.append((box, score, label))
    return kept[:most]


def _explains(other, entry):
    if other[3] or other[2] != entry[2] or other[1] < 0.5 * entry[1]:
        return False
    return _shared(other[0], entry[0]) >= 0.5 * _area(entry[0])


def _iou(one, other):
    shared = _shared(one, other)
    return shared / (_area(one) + _area(other) - shared)


def _shared(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])
