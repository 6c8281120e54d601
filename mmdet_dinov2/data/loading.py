"""Loading of images that may be broken, hostile or rotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS

from ..errors import InputError
from .image_header import MAX_PIXELS, check_size, read_header
from .image_pixels import decode


class BadImageError(InputError):
    """An image file that cannot be read.

    Args:
        path: The file.
        reason: Why it cannot be read.
    """

    def __init__(self, path: str, reason: str = '') -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"image '{self.path}' cannot be read: {self.reason}"

    @property
    def described(self) -> tuple[str, str]:
        """Path and reason."""
        return self.path, self.reason


@TRANSFORMS.register_module()
class CheckedLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, which reads the header before it decodes.

    If the annotations give the size of the image without its EXIF rotation, the image is not
    rotated. An ``img`` that the sample already has is used as it is.

    Args:
        max_pixels: Images that declare more pixels are refused before they are decoded.
        **kwargs: As for mmcv's ``LoadImageFromFile``.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_pixels < 1:
            raise InputError(f'max_pixels must be at least 1, but is {max_pixels}')
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Adds ``img``, ``img_shape`` and ``ori_shape``.

        Raises:
            BadImageError: If the file cannot be read, or masks in run-length encoding have a
                different size.
        """
        if 'img' not in results:
            results['img'] = self._load(results)
            check_masks(results, results['img'].shape[:2])
        if self.to_float32:
            results['img'] = results['img'].astype(np.float32)
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def _load(self, results: dict) -> np.ndarray:
        path = results['img_path']
        annotated = (
            (results['width'], results['height']) if {'width', 'height'} <= results.keys() else None
        )
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            header = read_header(content)
            check_size(header, self.max_pixels)
            return decode(content, header, annotated, self.color_type, self.imdecode_backend)
        except FileNotFoundError as error:
            raise BadImageError(path, 'the file does not exist') from error
        except (InputError, OSError) as error:
            raise BadImageError(path, str(error)) from error


def check_masks(results: Mapping[str, Any], shape: tuple[int, int]) -> None:
    """Checks that masks in run-length encoding have the size of the image.

    Args:
        results: What a pipeline begins with: ``img_path`` and, if there are any, ``instances``.
        shape: Height and width of the image.

    Raises:
        BadImageError: If one has a different size, with which mmdet would end the training.
    """
    height, width = shape
    for instance in results.get('instances', ()):
        mask = instance.get('mask')
        if isinstance(mask, dict) and list(mask.get('size', ())) != [height, width]:
            raise BadImageError(
                results['img_path'],
                f'it has {height} x {width} pixels (height x width), but masks of its annotations '
                f'have {" x ".join(map(str, mask.get("size", ())))}; correct width and height in '
                'the annotation file, or replace the image',
            )
