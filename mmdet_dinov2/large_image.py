"""What a test pipeline passes to the model about an image of which tiles are read.

Data samples are the only thing besides images that mmdet's dataloaders pass on to the model.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from mmdet.structures import DetDataSample

# Largest number of detections in an image of several tiles, unless the detector says so.
MAX_PER_IMG = 1000
# Field of a data sample. Tensors in a field would be moved to the device with the sample.
_FIELD = 'large_image'


class LargeImage(Protocol):
    """An image that need not be in memory as a whole.

    Attributes:
        shape: Height and width in pixels.
    """

    shape: tuple[int, int]

    def read(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Returns the pixels between two corners, H x W x 3, uint8, BGR."""
        ...


def attach(sample: DetDataSample, image: LargeImage) -> None:
    """Notes on a data sample where its image can be read."""
    sample.set_field(image, _FIELD)


def detach(sample: DetDataSample) -> tuple[DetDataSample, LargeImage | None]:
    """Returns a data sample without its large image, a copy, and that image if there is one."""
    if _FIELD not in sample:
        return sample, None
    copy = sample.new()
    return copy, copy.pop(_FIELD, None)
