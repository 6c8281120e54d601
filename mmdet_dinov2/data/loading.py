"""Loading of images that may be broken, hostile or turned."""

from __future__ import annotations

import copy
from typing import Any

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.dataset import Compose

from ..errors import InputError
from .image_file import MAX_PIXELS, check_size, decode, read_header


class BadImageError(InputError):
    """An image file that cannot be read.

    Args:
        path: The file.
        reason: Why.
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
    """mmcv's ``LoadImageFromFile`` that looks at the header before it decodes.

    A ``ClassNameCocoDataset`` puts it in the place of ``LoadImageFromFile``. Where the size in the
    annotation file is that of the picture without its EXIF rotation, the picture is not rotated. An
    image that is there already is taken as it is.

    Args:
        max_pixels: Images that declare more are refused before they are decoded.
        **kwargs: As for mmcv's ``LoadImageFromFile``.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_pixels < 1:
            raise InputError(f'max_pixels={max_pixels} must be at least 1')
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Adds ``img``, ``img_shape`` and ``ori_shape``.

        Raises:
            BadImageError: If the file cannot be read.
        """
        if 'img' not in results:
            results['img'] = self._load(results)
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


def with_checked_loading(pipeline: Compose) -> Compose:
    """Returns a pipeline whose ``LoadImageFromFile`` check what they load; others stay."""
    if not any(type(transform) is LoadImageFromFile for transform in pipeline.transforms):
        return pipeline
    checked = copy.copy(pipeline)
    checked.transforms = [
        CheckedLoadImageFromFile(
            to_float32=transform.to_float32,
            color_type=transform.color_type,
            imdecode_backend=transform.imdecode_backend,
            backend_args=transform.backend_args,
        )
        if type(transform) is LoadImageFromFile
        else transform
        for transform in pipeline.transforms
    ]
    return checked
