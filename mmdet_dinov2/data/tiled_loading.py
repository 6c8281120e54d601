"""Loading of large images, of which tiles are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS

from ..errors import InputError
from ..large_image import LargeImage, attach
from .loading import CheckedLoadImageFromFile, check_masks
from .row_reading import open_rows
from .tiff_reading import open_tiff

# Key of the results of a pipeline.
LARGE_IMAGE = 'large_image'
_REDUCTION = 'reduction'
# The longer side of what stands for an image that is not read as a whole.
_REDUCED_SIDE = 2048
# Pixels that are read at once to reduce an image.
_PIXELS = 2**20


class DecodedImage:
    """An image that is in memory as a whole.

    Args:
        pixels: H x W x 3, uint8, BGR.

    Attributes:
        shape: Height and width in pixels.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.shape = pixels.shape[:2]

    def read(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Returns a view of the pixels between two corners."""
        return self._pixels[y1:y2, x1:x2]


@TRANSFORMS.register_module()
class TiledLoadImageFromFile(CheckedLoadImageFromFile):
    """Loads an image so that tiles of it can be read.

    TIFF files of tiles or strips are not read as a whole, if the package tifffile is installed,
    and neither are large JPEG and PNG files, if pyvips is: a reduced image stands for them. All
    other files are decoded once.

    Args:
        reduced: Whether to load the image, or what stands for it, as ``img``. Training on tiles
            needs tiles only.
        reduced_side: Longest side of ``img`` in pixels; None leaves decoded images as they are.
        keep: Number of decoded images that each process keeps: training cuts tiles of the same
            images again and again. If there are any, JPEG and PNG files are decoded as a whole.
        **kwargs: As for :class:`.CheckedLoadImageFromFile`.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self, *, reduced: bool = True, reduced_side: int | None = None, keep: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise InputError(f'keep must be a whole number of at least 0, but is {keep!r}')
        self.reduced = reduced
        self.reduced_side = reduced_side
        self.keep = keep
        self._kept: OrderedDict[str, LargeImage] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), '_kept': OrderedDict()}

    def transform(self, results: dict) -> dict:
        """Adds ``large_image``, ``img`` unless it is not wanted, ``img_shape``, ``ori_shape``.

        Raises:
            BadImageError: If the file cannot be read, or masks in run-length encoding have a
                different size.
        """
        given = 'img' in results
        image = DecodedImage(results['img']) if given else self._image(results)
        if not given:
            check_masks(results, image.shape)
        results[LARGE_IMAGE] = image
        results['img_shape'] = results['ori_shape'] = tuple(image.shape)
        results['scale_factor'] = (1.0, 1.0)
        if self.reduced:
            results['img'] = self._reduced(image)
            height, width = results['img_shape'] = results['img'].shape[:2]
            results[_REDUCTION] = (width / image.shape[1], height / image.shape[0])
        if self.to_float32 and 'img' in results:
            results['img'] = results['img'].astype(np.float32)
        return results

    def _reduced(self, image: LargeImage) -> np.ndarray:
        side = self.reduced_side
        if side is None:
            if isinstance(image, DecodedImage):
                return image.read(0, 0, *image.shape[::-1])
            side = _REDUCED_SIDE
        return reduce_image(image, side)

    def _image(self, results: dict) -> LargeImage:
        path = results['img_path']
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        image: LargeImage | None = None
        # Files elsewhere are read through their backend, as a whole.
        if self.backend_args is None and '://' not in path:
            image = open_in_parts(Path(path), rows=not self.keep)
        if image is None:
            image = DecodedImage(self._load(results))
        if self.keep:
            self._kept[path] = image
            if len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        return image


def open_in_parts(path: Path, rows: bool = True) -> LargeImage | None:
    """Opens an image file of which parts can be read without the whole.

    Args:
        path: The file.
        rows: Whether this includes files whose rows are decoded one after the other.

    Returns:
        The image; None if the whole has to be read.
    """
    return open_tiff(path) or (open_rows(path) if rows else None)


def reduce_image(image: LargeImage, side: int) -> np.ndarray:
    """Returns a reduced copy of an image, of which a few rows are read at a time.

    Args:
        image: The image.
        side: Longest side of the copy in pixels. A smaller image keeps its size.

    Returns:
        H x W x 3, uint8, BGR; each pixel is the mean of those that it stands for.
    """
    height, width = image.shape
    factor = max(1, -(-max(height, width) // side))
    columns = max(1, width // factor)
    parts = []
    step = max(factor, _PIXELS // width // factor * factor)
    for top in range(0, height, step):
        rows = image.read(0, top, width, min(top + step, height))
        kept = max(1, len(rows) // factor)
        if len(rows) < factor and parts:  # less than a row is left at the end
            break
        parts.append(cv2.resize(rows, (columns, kept), interpolation=cv2.INTER_AREA))
    return np.concatenate(parts)


def shown_pixels(results: Mapping[str, Any]) -> np.ndarray:
    """Returns the pixels of a loaded image to draw on, reduced if they are not in memory.

    Args:
        results: What a transform that loads images returned, H x W x 3, uint8, BGR.
    """
    image = results.get(LARGE_IMAGE)
    if image is None:
        return results['img']
    if isinstance(image, DecodedImage):
        return image.read(0, 0, *image.shape[::-1])
    return reduce_image(image, _REDUCED_SIDE)


@TRANSFORMS.register_module()
class PackTiledInputs(PackDetInputs):
    """mmdet's ``PackDetInputs``, which passes the large image on with the data sample.

    Args:
        *args: As for mmdet's ``PackDetInputs``.
        **kwargs: As for mmdet's ``PackDetInputs``.
    """

    def transform(self, results: dict) -> dict:
        """Packs a sample; see mmdet's class.

        Raises:
            InputError: If the image was not loaded by ``TiledLoadImageFromFile``.
        """
        if LARGE_IMAGE not in results:
            raise InputError(
                'PackTiledInputs needs TiledLoadImageFromFile at the beginning of its pipeline'
            )
        if _REDUCTION in results:
            scales = zip(results['scale_factor'], results[_REDUCTION], strict=True)
            results['scale_factor'] = tuple(scale * reduction for scale, reduction in scales)
        packed = super().transform(results)
        attach(packed['data_samples'], results[LARGE_IMAGE])
        return packed
