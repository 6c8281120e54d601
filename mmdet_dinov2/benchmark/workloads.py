"""Random images and boxes of given sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from ..layers import valid_cells

Size = tuple[int, int]

# Width over height; most photos of COCO have the first one.
_ASPECT_RATIOS = (4 / 3, 3 / 4, 3 / 2, 2 / 3, 1.0)


def detr_sizes(count: int, seed: int) -> list[Size]:
    """Draws image sizes as DETR's multi-scale augmentation does.

    The short side is drawn from 480, 512, ..., 800, the aspect ratio from 4:3, 3:4, 3:2, 2:3 and
    1:1; an image whose long side would exceed 1333 is scaled down to it.

    Args:
        count: Number of images.
        seed: Seed of the draws.

    Returns:
        The height and width of each image in pixels.
    """
    numbers = random.Random(seed)
    sizes = []
    for _ in range(count):
        short, aspect = numbers.randrange(480, 801, 32), numbers.choice(_ASPECT_RATIOS)
        long = short * max(aspect, 1 / aspect)
        scale = min(1.0, 1333 / long)
        short, long = round(short * scale), round(long * scale)
        sizes.append((short, long) if aspect > 1 else (long, short))
    return sizes


def sizes_within(longest: int, count: int, seed: int) -> list[Size]:
    """Draws sizes with a given long side in pixels and the aspect ratios of ``detr_sizes``."""
    numbers = random.Random(seed)
    aspects = [numbers.choice(_ASPECT_RATIOS) for _ in range(count)]
    return [
        (longest, round(longest * a)) if a < 1 else (round(longest / a), longest) for a in aspects
    ]


def fixed_sizes(sizes: Sequence[Size], count: int, seed: int) -> list[Size]:
    """Returns the given sizes in turns; the seed has no effect."""
    return [sizes[i % len(sizes)] for i in range(count)]


def canvas_of(sizes: Sequence[Size], divisor: int = 1) -> Size:
    """Returns the smallest canvas that holds all sizes, with sides divisible by ``divisor``."""
    height, width = (max(side) for side in zip(*sizes, strict=True))
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def valid_share(sizes: Sequence[Size], patch_size: int) -> float:
    """Returns the share of the patches of a padded batch that belong to an image."""
    rows, cols = valid_cells([canvas_of(sizes)], patch_size)[0]
    valid = sum(h * w for h, w in valid_cells(sizes, patch_size))
    return valid / (rows * cols * len(sizes))


def describe_sizes(sizes: Sequence[Size]) -> str:
    """Returns sizes as text, height x width."""
    return ' '.join(f'{h}x{w}' for h, w in sizes)


def random_batch(
    sizes: Sequence[Size],
    num_classes: int,
    seed: int,
    boxes: tuple[int, int] = (1, 15),
    masks: bool = False,
) -> dict:
    """Makes a batch like that of a dataloader, with random pixels and boxes.

    Args:
        sizes: Height and width of each image in pixels.
        num_classes: Number of classes; labels are 0..num_classes - 1.
        seed: Seed of pixels, boxes and labels.
        boxes: Smallest and largest number of boxes per image. Photos of COCO have 7.3 on average.
        masks: Whether each box has a mask, the largest ellipse in it.

    Returns:
        ``inputs``, uint8 images of shape (3, H, W), and ``data_samples``.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for height, width in sizes:
        count = int(torch.randint(boxes[0], boxes[1] + 1, (), generator=generator))
        corners = torch.rand(count, 2, 2, generator=generator).sort(1).values
        corners[:, 1] += 0.01  # every box has an area
        limits = torch.tensor([width, height, width, height])
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=(corners.flatten(1) * limits).minimum(limits),
            labels=torch.randint(num_classes, (count,), generator=generator),
        )
        if masks:
            corners = sample.gt_instances.bboxes.numpy()
            sample.gt_instances.masks = _ellipses(corners, height, width)
        inputs.append(
            torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _ellipses(boxes: np.ndarray, height: int, width: int) -> BitmapMasks:
    """Returns the largest ellipses in boxes (x1, y1, x2, y2)."""
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        mask[u * u + v * v <= 1] = 1
    return BitmapMasks(masks, height, width)
