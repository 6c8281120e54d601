"""Training on tiles of large images."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import autocast_box_type

from ..errors import InputError
from .tiled_loading import LARGE_IMAGE

# How often a tile without boxes is looked for.
_TRIES = 20


@TRANSFORMS.register_module()
class RandomTile(BaseTransform):
    """Cuts a random tile out of an image.

    A tile contains a random box of the image as a whole, at a random place of the tile, or, in a
    share of the samples, no box. An image without boxes gives tiles from anywhere. Random numbers
    are NumPy's, which :class:`.seeded.SeededDataset` seeds for each sample.

    Args:
        size: Side of the tile in pixels. Images that are smaller stay as they are.
        empty_share: Share of tiles without a box, 0 to 1. Where none is found, the tile is one
            from anywhere.
        min_visible: A box is kept if so much of its area lies in the tile, above 0 and up to 1; of
            one that is larger than a tile, so much of what a tile can hold. It is then cut to the
            tile.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(self, size: int, empty_share: float = 0.1, min_visible: float = 0.4) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f'size must be a whole number of at least 1, but is {size!r}')
        if not 0 <= empty_share <= 1:
            raise InputError(f'empty_share must lie in 0 to 1, but is {empty_share!r}')
        if not 0 < min_visible <= 1:
            raise InputError(f'min_visible must be above 0 and up to 1, but is {min_visible!r}')
        self.size = size
        self.empty_share = empty_share
        self.min_visible = min_visible

    @property
    def crop_size(self) -> tuple[int, int]:
        """Largest size of a tile, under the name that transforms of mmdet have for it."""
        return (self.size, self.size)

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Replaces the image by a tile, and keeps the boxes in it.

        Args:
            results: ``large_image`` of ``TiledLoadImageFromFile`` or ``img``; ``gt_bboxes`` and,
                if there are any, ``gt_bboxes_labels``, ``gt_ignore_flags`` and ``gt_masks``.
        """
        large = results.pop(LARGE_IMAGE, None)
        height, width = results['img'].shape[:2] if large is None else large.shape
        tile_height, tile_width = min(self.size, height), min(self.size, width)
        boxes = np.zeros((0, 4))
        if 'gt_bboxes' in results:
            boxes = results['gt_bboxes'].numpy().astype(float)
        x, y = self._place(boxes, (width - tile_width, height - tile_height))
        corners = (x, y, x + tile_width, y + tile_height)
        if large is None:
            tile = results['img'][y : y + tile_height, x : x + tile_width]
        else:
            tile = large.read(*corners)
        results['img'] = tile.copy()  # later transforms may change it in place
        results['img_shape'] = (tile_height, tile_width)
        if 'gt_bboxes' in results:
            self._cut_boxes(results, boxes, corners)
        return results

    def _place(self, boxes: np.ndarray, room: tuple[int, int]) -> tuple[int, int]:
        """Chooses the top left corner of the tile, in 0..room."""
        wants_empty = np.random.rand() < self.empty_share
        if len(boxes) and not wants_empty:
            box = boxes[np.random.randint(len(boxes))]
            return tuple(
                _choose(box[axis], box[axis + 2], self.size, room[axis]) for axis in (0, 1)
            )
        x = y = 0
        for _ in range(_TRIES):
            x, y = (int(np.random.randint(length + 1)) for length in room)
            ends = np.array([x, y]) + self.size
            touched = (boxes[:, :2] < ends).all(1) & (boxes[:, 2:] > (x, y)).all(1)
            if not wants_empty or not touched.any():
                break
        return x, y

    def _cut_boxes(
        self, results: dict, boxes: np.ndarray, corners: tuple[int, int, int, int]
    ) -> None:
        """Keeps the boxes that are visible enough, in pixels of the tile."""
        sides = np.minimum(boxes[:, 2:], corners[2:]) - np.maximum(boxes[:, :2], corners[:2])
        visible = sides.clip(0).prod(1)
        whole = np.minimum(boxes[:, 2:] - boxes[:, :2], self.size).prod(1)
        kept = visible >= self.min_visible * whole
        kept &= visible > 0
        own = results['gt_bboxes'][kept]
        own.translate_([-corners[0], -corners[1]])
        own.clip_((corners[3] - corners[1], corners[2] - corners[0]))
        results['gt_bboxes'] = own
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            if results.get(key) is not None:
                results[key] = results[key][kept]
        if results.get('gt_masks') is not None:
            results['gt_masks'] = results['gt_masks'][np.flatnonzero(kept)].crop(np.array(corners))

    def __repr__(self) -> str:
        settings: dict[str, Any] = dict(
            size=self.size, empty_share=self.empty_share, min_visible=self.min_visible
        )
        inner = ', '.join(f'{name}={value}' for name, value in settings.items())
        return f'{type(self).__name__}({inner})'


def _choose(low: float, high: float, size: int, room: int) -> int:
    """Chooses where a tile begins so that it holds low..high, or lies in it if that is longer."""
    first, last = sorted((int(np.ceil(high)) - size, int(low)))
    first, last = (min(max(end, 0), room) for end in (first, last))
    return int(np.random.randint(first, last + 1))
