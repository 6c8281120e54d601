"""Masks of detections in the size of a picture, from logits on a coarse grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from ..layers.padding import Size

# Pixels of masks that are computed at once: a few tensors of 16 MiB.
_PIXELS_AT_ONCE = 2**22


def predict_masks(
    logits_of: Callable[[Tensor], Tensor],
    grid: Size,
    pixels: Tensor,
    boxes: Tensor,
    size: Sequence[int],
) -> list[dict]:
    """Returns the masks of detections, of which at most a few are in memory at once.

    Logits are interpolated inside of the boxes only. A pixel belongs to the mask if the logit at
    its centre is positive.

    Args:
        logits_of: Takes the numbers of n detections, int64, and returns their logits in the cells
            of a grid, shape (n, rows, columns).
        grid: Rows and columns.
        pixels: Width and height of the grid in pixels of the picture, shape (2,).
        boxes: Boxes (x1, y1, x2, y2) in pixels of the picture, shape (N, 4).
        size: Height and width of the picture.

    Returns:
        For each detection a dict with ``size``, ``[H, W]``, and ``counts``, COCO's compressed
        run-length encoding.
    """
    windows = _windows(boxes, size)
    masks: list[dict] = [{}] * len(windows)
    for group in _groups(windows, max(1, _PIXELS_AT_ONCE // math.prod(grid))):
        logits = logits_of(torch.from_numpy(group).to(boxes.device, non_blocking=True))
        tops, lefts, heights, widths = windows[group].T
        found = _interpolate(logits, pixels, lefts, tops, widths.max(), heights.max())
        for index, mask, (top, left, height, width) in zip(
            group, found, windows[group].tolist(), strict=True
        ):
            masks[index] = encode_window(mask[:height, :width], top, left, size)
    return masks


def masks_from_logits(
    logits: Tensor, cell: Tensor, boxes: Tensor, size: Sequence[int]
) -> list[dict]:
    """Returns the masks of detections whose logits are given; see :func:`predict_masks`.

    Args:
        logits: Shape (N, rows, columns).
        cell: Width and height of a cell in pixels of the picture, shape (2,).
        boxes: Boxes (x1, y1, x2, y2) in pixels of the picture, shape (N, 4).
        size: Height and width of the picture.
    """
    rows, cols = logits.shape[1:]
    pixels = cell * cell.new_tensor([cols, rows])
    return predict_masks(logits.__getitem__, (rows, cols), pixels, boxes, size)


def _windows(boxes: Tensor, size: Sequence[int]) -> np.ndarray:
    """Returns the pixels that boxes touch: top, left, height and width, all at least 1, (N, 4)."""
    height, width = size
    corners = boxes.double().cpu().numpy()
    left, top = (
        np.clip(np.floor(corners[:, i]).astype(int), 0, side - 1)
        for i, side in enumerate((width, height))
    )
    right, bottom = (
        np.clip(np.ceil(corners[:, 2 + i]).astype(int), first + 1, side)
        for i, (first, side) in enumerate(((left, width), (top, height)))
    )
    return np.stack((top, left, bottom - top, right - left), 1)


def _groups(windows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yields the numbers of windows of similar size, as many as may be computed at once."""
    order = np.lexsort((windows[:, 3], windows[:, 2]))
    group: list[int] = []
    tallest = widest = 0
    for index in order.tolist():
        taller, wider = max(tallest, windows[index, 2]), max(widest, windows[index, 3])
        full = len(group) == most or (len(group) + 1) * taller * wider > _PIXELS_AT_ONCE
        if group and full:
            yield np.array(group)
            group, taller, wider = [], *windows[index, 2:]
        group.append(index)
        tallest, widest = taller, wider
    if group:
        yield np.array(group)


def _interpolate(
    logits: Tensor, pixels: Tensor, lefts: np.ndarray, tops: np.ndarray, width: int, height: int
) -> np.ndarray:
    """Returns whether interpolated logits (n, rows, cols) are positive, (n, height, width) bool.

    The windows of the n masks begin at ``lefts`` and ``tops``; the grid has ``pixels`` (2,).
    """
    device = logits.device
    starts = torch.from_numpy(np.stack((lefts, tops), 1)).to(device, non_blocking=True)
    parts = []
    # A single window may have more pixels than should be in memory.
    band = max(1, _PIXELS_AT_ONCE // (len(logits) * int(width)))
    x = (torch.arange(int(width), device=device) + 0.5 + starts[:, :1]) / pixels[0]
    for first in range(0, int(height), band):
        rows = torch.arange(first, min(first + band, int(height)), device=device)
        y = (rows + 0.5 + starts[:, 1:]) / pixels[1]
        places = torch.stack(
            (
                (2 * x - 1)[:, None].expand(-1, len(rows), -1),
                (2 * y - 1)[..., None].expand(-1, -1, x.shape[1]),
            ),
            -1,
        )
        values = F.grid_sample(logits[:, None], places, padding_mode='border', align_corners=False)
        parts.append((values[:, 0] > 0).cpu().numpy())
    return np.concatenate(parts, 1)


def encode_window(window: np.ndarray, top: int, left: int, size: Sequence[int]) -> dict:
    """Returns COCO's run lengths of a mask that is empty outside of a window.

    The time depends on the window, not on the picture.

    Args:
        window: Mask of the window, bool, shape (h, w).
        top: First row of the window.
        left: First column of the window.
        size: Height and width of the picture.
    """
    height, width = size
    # COCO goes through the pixels column by column.
    columns = np.zeros((window.shape[1], window.shape[0] + 2), np.int8)
    columns[:, 1:-1] = window.T
    changes = np.diff(columns, axis=1)
    starts, ends = (
        (left + column) * height + top + row
        for column, row in (np.nonzero(changes == change) for change in (1, -1))
    )
    # A run that ends at the bottom of a column goes on at the top of the next one.
    joined = np.flatnonzero(starts[1:] == ends[:-1])
    starts, ends = np.delete(starts, joined + 1), np.delete(ends, joined)
    bounds = np.stack((starts, ends), 1).ravel()
    if not len(bounds) or bounds[-1] < height * width:
        bounds = np.append(bounds, height * width)
    counts = np.diff(bounds, prepend=0).tolist()
    return coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)
