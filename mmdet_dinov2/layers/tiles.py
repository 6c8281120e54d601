"""Where the tiles of a large image lie."""

from __future__ import annotations

Box = tuple[int, int, int, int]


def tile_boxes(height: int, width: int, size: int, overlap: float) -> list[Box]:
    """Divides an image into tiles that overlap.

    There are as few tiles as cover the image, and they are only as large as that takes: tiles of a
    row differ by a pixel at most, so that none is narrow and little is seen twice. An object whose
    sides are at most ``int(size * overlap)`` pixels lies within a tile as a whole.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        size: Largest side of a tile in pixels.
        overlap: Share of ``size`` by which neighbours overlap, from 0 on and below 1.

    Returns:
        Corners x1, y1, x2, y2 of each tile in pixels, row by row. An image that fits in one tile is
        a single one.
    """
    shared = int(size * overlap)
    rows, columns = _intervals(height, size, shared), _intervals(width, size, shared)
    return [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _intervals(length: int, size: int, shared: int) -> list[tuple[int, int]]:
    """Divides 0..length into intervals of at most ``size`` that share at least ``shared``."""
    count = max(1, -(-(length - shared) // (size - shared)))
    side = -(-(length + (count - 1) * shared) // count)
    # Rounded down, steps are at most side - shared.
    starts = [index * (length - side) // max(count - 1, 1) for index in range(count)]
    return [(start, start + side) for start in starts]
