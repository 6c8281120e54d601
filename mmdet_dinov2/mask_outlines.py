"""Outlines of masks as polygons, which cover exactly the pixels of the mask.

Coordinates are those of COCO: pixel (0, 0) covers the square from (0, 0) to (1, 1).
"""

from __future__ import annotations

import cv2
import numpy as np


def mask_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[list[float]]:
    """Returns a mask as polygons in COCO's form.

    There is one for each connected part. A hole is joined to the outline around it by a line that
    is passed in both directions, since polygons of COCO have no holes.

    Args:
        mask: (H, W), bool or 0 and 1.
        tolerance: How far in pixels an outline may be from that of the mask, so that it has fewer
            corners. With 0 the polygons cover exactly the pixels of the mask.

    Returns:
        Polygons as ``x, y, x, y, ...`` in pixels; none for an empty mask.
    """
    polygons = []
    for outer, *holes in mask_outlines(mask, tolerance):
        for hole in holes:
            outer = _joined(outer, hole)
        polygons.append(outer.astype(float).ravel().tolist())
    return polygons


def mask_outlines(mask: np.ndarray, tolerance: float = 0.0) -> list[list[np.ndarray]]:
    """Returns the outlines of a mask.

    Args:
        mask: (H, W), bool or 0 and 1.
        tolerance: As for :func:`mask_polygons`.

    Returns:
        For each connected part (corners connect) the outer outline and those of its holes, each of
        (N, 2) corners ``x, y`` in pixels.
    """
    mask = np.asarray(mask, dtype=np.uint8)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    x, y = int(columns[0]), int(rows[0])
    part = mask[y : rows[-1] + 1, x : columns[-1] + 1]
    # OpenCV's contours run through the centres of pixels. Of an image in which each pixel is four,
    # they run along the pixels' edges, a quarter of a pixel inside of them.
    contours, tree = cv2.findContours(
        part.repeat(2, axis=0).repeat(2, axis=1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    outlines: dict[int, list[np.ndarray]] = {}
    for index, (contour, links) in enumerate(zip(contours, tree[0], strict=True)):
        corners = _corners((contour[:, 0] + 1) // 2 + (x, y), tolerance)
        parent = int(links[3])
        if parent < 0:
            outlines.setdefault(index, []).insert(0, corners)
        else:
            outlines.setdefault(parent, []).append(corners)
    return list(outlines.values())


def _corners(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the points at which a closed line of pixel edges turns, or fewer."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    points = points[(after - points != points - before).any(axis=1)]
    if tolerance > 0:
        fewer = cv2.approxPolyDP(points.astype(np.float32), tolerance, closed=True)[:, 0]
        if len(fewer) > 2:
            return fewer
    return points


def _joined(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Returns an outline that goes around a hole of it, too."""
    distances = np.square(outer[:, None].astype(float) - hole[None]).sum(axis=2)
    at, start = np.unravel_index(distances.argmin(), distances.shape)
    around = np.concatenate([hole[start:], hole[: start + 1]])
    return np.concatenate([outer[: at + 1], around, outer[at:]])
