"""Crops of an image as one training sample, with masks of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ..errors import InputError
from ..sample_meta import CROP_SHAPES, NUM_GLOBAL_CROPS, PATCH_MASKS

_TRIES = 10


@TRANSFORMS.register_module()
class PackCrops(BaseTransform):
    """Packs the crops that mmpretrain's ``MultiView`` made, and draws masks of patches.

    The first two crops are the global ones, which the teacher sees too. Crops may have any sizes:
    their pixels travel as one row, and their sizes as metadata. Each global crop is masked or not
    by a draw of its own, so that it does not depend on the other images of a batch.

    Args:
        patch_size: Side of the patches of the backbone in pixels.
        mask_prob: Probability that a global crop is masked. With 0 no masks are packed: only
            distillation from a frozen source works without.
        mask_ratio: Least and largest share of the patches that are masked in such a crop.
        min_block: Least number of patches of a masked block.
        aspect_range: Least and largest height of a block, relative to its width.
        meta_keys: What of the sample is packed as metadata, where it is there.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self,
        patch_size: int = 14,
        mask_prob: float = 0.5,
        mask_ratio: Sequence[float] = (0.1, 0.5),
        min_block: int = 4,
        aspect_range: Sequence[float] = (0.3, 1 / 0.3),
        meta_keys: Sequence[str] = ('img_id', 'img_path', 'ori_shape'),
    ) -> None:
        if not 0 <= mask_prob <= 1:
            raise InputError(f'mask_prob of PackCrops must lie in 0..1, but is {mask_prob}')
        if not 0 < mask_ratio[0] <= mask_ratio[1] <= 1:
            raise InputError(
                'mask_ratio of PackCrops must be the least and the largest share, above 0 and at '
                f'most 1, but is {tuple(mask_ratio)}'
            )
        if patch_size < 1 or min_block < 1:
            raise InputError(
                'patch_size and min_block of PackCrops must be at least 1, but are '
                f'{patch_size} and {min_block}'
            )
        if not 0 < aspect_range[0] <= aspect_range[1]:
            raise InputError(
                'aspect_range of PackCrops must be the least and the largest height of a block '
                f'relative to its width, above 0, but is {tuple(aspect_range)}'
            )
        self.patch_size = patch_size
        self.mask_prob = mask_prob
        self.mask_ratio = tuple(mask_ratio)
        self.min_block = min_block
        self.aspect_range = tuple(aspect_range)
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns ``inputs``, all pixels in a row, uint8, and ``data_samples``.

        Raises:
            InputError: If there are fewer than two crops.
        """
        crops = results['img']
        if not isinstance(crops, list) or len(crops) < NUM_GLOBAL_CROPS:
            raise InputError(
                'PackCrops needs at least two crops of an image, the global ones first; put '
                'mmpretrain.MultiView before it'
            )
        shapes = tuple(crop.shape[:2] for crop in crops)
        meta = {key: results[key] for key in self.meta_keys if key in results}
        meta |= {'img_shape': shapes[0], CROP_SHAPES: shapes}
        if self.mask_prob:
            meta[PATCH_MASKS] = tuple(self._draw(shape) for shape in shapes[:NUM_GLOBAL_CROPS])
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData()  # the training loop counts boxes
        pixels = np.concatenate([crop.transpose(2, 0, 1).reshape(-1) for crop in crops])
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)

    def _draw(self, shape: tuple[int, int]) -> np.ndarray:
        rows, cols = (-(-side // self.patch_size) for side in shape)
        masked = np.random.uniform() < self.mask_prob
        share = np.random.uniform(*self.mask_ratio)
        count = round(share * rows * cols) if masked else 0
        return draw_blocks((rows, cols), count, self.min_block, self.aspect_range)


def draw_blocks(
    grid: tuple[int, int], count: int, min_block: int, aspect_range: Sequence[float]
) -> np.ndarray:
    """Masks random blocks until a number of patches is reached (BEiT, arXiv:2106.08254, alg. 1).

    As in DINOv2, it ends early when no further block is found.

    Args:
        grid: Rows and columns of patches.
        count: Number of patches to mask.
        min_block: Least number of patches of a block.
        aspect_range: Least and largest height of a block, relative to its width.

    Returns:
        Mask of shape (rows, cols), bool, with at most ``count`` patches.
    """
    mask = np.zeros(grid, bool)
    low, high = map(math.log, aspect_range)
    failed = 0
    while failed < _TRIES and (left := count - int(mask.sum())) > 0:
        area = np.random.uniform(min(min_block, left), left)
        aspect = math.exp(np.random.uniform(low, high))
        height = round(math.sqrt(area * aspect))
        width = round(math.sqrt(area / aspect))
        failed += 1
        if not (0 < height <= grid[0] and 0 < width <= grid[1]):
            continue
        top = np.random.randint(grid[0] - height + 1)
        column = np.random.randint(grid[1] - width + 1)
        block = mask[top : top + height, column : column + width]
        if 0 < block.size - int(block.sum()) <= left:
            block[:] = True
            failed = 0
    return mask
