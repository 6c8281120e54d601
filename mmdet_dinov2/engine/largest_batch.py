"""Finds the largest micro-batch that fits into memory, before a training starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

from ..data.largest_image import largest_image
from ..errors import InputError
from ..peak_memory import MIB, PeakMemory
from .hooks.loader_memory import return_freed_memory

# Share of the memory that a micro-batch may take, as far as it is estimated.
_USABLE_SHARE = 0.9
# Samples whose size is looked at, and images whose boxes are counted.
_NUM_SAMPLES = 16
_NUM_COUNTED = 512
# A limit below that of the machine, in MiB; for machines that are shared, and for tests.
MEMORY_LIMIT = 'MMDET_DINOV2_MEMORY_LIMIT_MIB'


@dataclass(frozen=True)
class LargestImage:
    """The image of a training that needs the most memory.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        num_boxes: Number of boxes.
        has_masks: Whether its boxes have masks.
    """

    height: int
    width: int
    num_boxes: int
    has_masks: bool = False

    def __str__(self) -> str:
        return f'{self.width} x {self.height} pixels with {self.num_boxes} boxes'

    def batch(self, size: int) -> dict:
        """Returns a batch of such images with random pixels, as a dataloader gives it.

        Args:
            size: Number of images.
        """
        numbers = torch.Generator().manual_seed(0)
        shape = (self.height, self.width)
        inputs, samples = [], []
        for seed in range(size):
            corners = torch.rand(self.num_boxes, 2, 2, generator=numbers).sort(1).values
            corners[:, 1] += 0.01
            boxes = corners.flatten(1) * torch.tensor([self.width, self.height] * 2)
            sample = DetDataSample(
                metainfo=dict(
                    img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), sample_seed=seed
                )
            )
            sample.gt_instances = InstanceData(
                bboxes=HorizontalBoxes(boxes),
                labels=torch.zeros(self.num_boxes, dtype=torch.long),
            )
            if self.has_masks:
                sample.gt_instances.masks = _filled_boxes(boxes, *shape)
            inputs.append(torch.randint(256, (3, *shape), dtype=torch.uint8, generator=numbers))
            samples.append(sample)
        return dict(inputs=inputs, data_samples=samples)


def find_largest_image(dataset: Dataset) -> LargestImage:
    """Returns the largest image that a pipeline makes, with as many boxes as images have.

    These are the boxes of the most crowded of up to 512 images, or of up to 16 samples that the
    pipeline makes.

    Args:
        dataset: A training dataset of mmengine.

    Raises:
        InputError: If its images have no boxes.
    """
    if 'instances' not in dataset.get_data_info(0):
        raise InputError(
            '--batch-size auto looks for the image with the most boxes, but the training images '
            'have none at all; give a number'
        )
    step = max(1, len(dataset) // _NUM_COUNTED)
    counts = [
        len(dataset.get_data_info(index).get('instances', ()))
        for index in range(0, len(dataset), step)
    ]
    # Not all transforms say how large they make images, nor how many they put together.
    step = max(1, len(dataset) // _NUM_SAMPLES)
    samples = [dataset[index] for index in range(0, len(dataset), step)]
    counts += [len(sample['data_samples'].gt_instances) for sample in samples]
    sizes = [tuple(sample['inputs'].shape[-2:]) for sample in samples]
    sizes += filter(None, [largest_image(_transforms_of(dataset))])
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    return LargestImage(height, width, max(counts), _loads_masks(dataset))


def _filled_boxes(boxes: torch.Tensor, height: int, width: int) -> BitmapMasks:
    masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    return BitmapMasks(masks, height, width)


def _loads_masks(dataset: Any) -> bool:
    """Returns whether a pipeline of a dataset, or of one that it wraps, loads masks."""
    pipeline = getattr(dataset, 'pipeline', ())
    if any(getattr(step, 'with_mask', False) for step in getattr(pipeline, 'transforms', pipeline)):
        return True
    inner = (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ()))
    return any(_loads_masks(part) for part in inner if part is not None)


def _transforms_of(dataset: Any) -> Sequence[Any]:
    """Returns the transforms of a dataset, or of that which it wraps."""
    pipeline = getattr(dataset, 'pipeline', None)
    if pipeline is not None:
        return getattr(pipeline, 'transforms', pipeline)
    inner = getattr(dataset, 'dataset', None)
    if inner is None:  # several datasets, such as those of ConcatDataset
        inner = next(iter(getattr(dataset, 'datasets', ())), None)
    return () if inner is None else _transforms_of(inner)


def memory_limit(device: torch.device) -> int:
    """Returns how many bytes this process may use on a device, with what it has already."""
    limits = []
    if device.type == 'cuda':
        free, total = torch.cuda.mem_get_info(device)
        limits.append(free + torch.cuda.memory_reserved(device))
        limits.append(int(total * torch.cuda.get_per_process_memory_fraction(device)))
    else:
        limits.append(psutil.virtual_memory().available + psutil.Process().memory_info().rss)
        limits += [
            int(path.read_text())
            for path in (
                Path('/sys/fs/cgroup/memory.max'),
                Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
            )
            if path.exists() and path.read_text().strip().isdigit()
        ]
    if MEMORY_LIMIT in os.environ:
        limits.append(int(os.environ[MEMORY_LIMIT]) * MIB)
    return min(limits)


def largest_fitting(
    most: int, peak_of: Callable[[int], float | None], usable: float, base: float = 0.0
) -> tuple[int, float]:
    """Returns the largest number of images that fits, and its peak.

    The number doubles as long as the next one is expected to fit, and the gap is halved after that.
    So a number that would take far more than there is, is never tried.

    Args:
        most: Largest number to try, at least 1.
        peak_of: Computes a micro-batch of so many images; returns the memory that it took, or None
            if memory was exhausted.
        usable: Memory that it may take, in the same unit.
        base: What would be taken without an image.

    Returns:
        The number, 0 if not even one image fits, and the memory it takes.
    """
    peaks = {0: base}
    fits, fails, size = 0, most + 1, 1
    while fits + 1 < fails:
        peak = peak_of(size) if size == 1 or _expected(peaks, size) <= usable else None
        if peak is not None and peak <= usable:
            fits, peaks[size] = size, peak
        else:
            fails = size
        size = 2 * fits if fits and 2 * fits < fails else (fits + fails) // 2
    return fits, peaks[fits] if fits else 0.0


def _expected(peaks: dict[int, float], size: int) -> float:
    """Continues the line through the last two peaks."""
    (first, low), (second, high) = sorted(peaks.items())[-2:]
    return high + (high - low) / (second - first) * (size - second)


class MemoryOfMachine:
    """The memory of a device that a training may use.

    Args:
        device: Device of the model.

    Attributes:
        usable: Bytes that a micro-batch may take.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._used = self._now()
        self.usable = _USABLE_SHARE * memory_limit(device) - self._used

    def _now(self) -> int:
        if self.device.type == 'cuda':
            return torch.cuda.memory_allocated(self.device)
        return psutil.Process().memory_info().rss

    def peak_of(self, work: Callable[[], bool]) -> float | None:
        """Returns the bytes that a piece of work took at most; None if it returned False."""
        return_freed_memory()
        before = self._now()
        peak = PeakMemory(self.device)
        return before - self._used + peak.mib() * MIB if work() else None
