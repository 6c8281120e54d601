"""What the true masks of a batch are at the points at which predicted masks are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from torch import Tensor

from ..errors import InputError
from ..layers.polygons import points_in_polygons

# Tells the random numbers of the points from those of the denoising queries of a sample.
_STREAM = 0x6D61736B


@dataclass(frozen=True)
class MaskTargets:
    """True masks of B images at random points.

    Attributes:
        points: Points (x, y) of each image, relative to it, uniform in [0, 1), fp32, shape (K, 2).
        inside: Whether each mask of an image covers its points, bool, shape (T, K).
        known: Whether each box of an image has a mask, shape (T,).
    """

    points: list[Tensor]
    inside: list[Tensor]
    known: list[Tensor]

    @classmethod
    def collate(
        cls,
        batch_data_samples: SampleList,
        seeds: Sequence[int],
        num_points: Sequence[int],
        device: torch.device,
    ) -> MaskTargets:
        """Draws points and looks the masks of mmdet's data samples up there.

        No mask becomes a tensor: bitmaps are read at the points, on the host, and of polygons the
        corners are compared with the points, on the device. A mask without any pixel stands for a
        box whose mask is not known.

        Args:
            batch_data_samples: For each image its ``img_shape`` and, in ``gt_instances``,
                ``masks``, ``BitmapMasks`` or ``PolygonMasks`` in pixels of the image.
            seeds: Seed of the points of each image.
            num_points: Number of points of each image.
            device: Device of the results.

        Raises:
            InputError: If an image has no ``masks``, or they have a different size or type.
        """
        points, inside, known = [], [], []
        for sample, seed, count in zip(batch_data_samples, seeds, num_points, strict=True):
            numbers = np.random.default_rng((seed, _STREAM)).random((count, 2), dtype=np.float32)
            masks = _masks_of(sample)
            drawn = torch.from_numpy(numbers).to(device, non_blocking=True)
            points.append(drawn)
            if isinstance(masks, BitmapMasks):
                covered = _read_bitmaps(masks.masks, numbers, sample.img_shape)
                inside.append(covered.to(device, non_blocking=True))
                has_pixels = masks.masks.any((1, 2))
            else:
                inside.append(_read_polygons(masks.masks, drawn, sample.img_shape))
                has_pixels = masks.areas > 0
            known.append(torch.from_numpy(has_pixels).to(device, non_blocking=True))
        return cls(points, inside, known)


def _masks_of(sample: DetDataSample) -> BitmapMasks | PolygonMasks:
    name = sample.metainfo.get('img_path') or f'image {sample.metainfo.get("img_id")}'
    masks = sample.gt_instances.get('masks')
    if not isinstance(masks, (BitmapMasks, PolygonMasks)):
        raise InputError(
            f'model.mask_head learns from masks, but {name} came with '
            f'{"none" if masks is None else type(masks).__name__}; set with_mask=True in '
            'LoadAnnotations of train_dataloader.dataset.pipeline, or leave mask_head out'
        )
    height, width = sample.img_shape[:2]
    if masks.height < height or masks.width < width:
        raise InputError(
            f'the masks of {name} have {masks.height} x {masks.width} pixels, but the image has '
            f'{height} x {width}; a transform of train_dataloader.dataset.pipeline changes one but '
            'not the other'
        )
    return masks


def _read_bitmaps(bitmaps: np.ndarray, points: np.ndarray, img_shape: Sequence[int]) -> Tensor:
    """Returns the pixels (T, H, W) that hold the points, shape (T, K)."""
    height, width = img_shape[:2]
    # Rounded, the product may be the size itself.
    column = np.minimum((points[:, 0] * width).astype(np.int64), width - 1)
    row = np.minimum((points[:, 1] * height).astype(np.int64), height - 1)
    return torch.from_numpy(bitmaps[:, row, column].astype(bool))


def _read_polygons(
    masks: Sequence[Sequence[np.ndarray]], points: Tensor, img_shape: Sequence[int]
) -> Tensor:
    """Returns whether the polygons of each mask hold the points, shape (T, K)."""
    height, width = img_shape[:2]
    points = points * torch.tensor([width, height]).to(points)
    owner = torch.tensor([t for t, parts in enumerate(masks) for _ in parts], dtype=torch.int64)
    parts = points_in_polygons(points, [part for parts in masks for part in parts])
    covered = torch.zeros(len(masks), len(points), dtype=torch.int32, device=points.device)
    return covered.index_add_(0, owner.to(points.device), parts.int()).bool()
