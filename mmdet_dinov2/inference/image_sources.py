"""Images as people hand them over in Python: files, arrays and PIL images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from ..data.image_header import MAX_ASPECT_RATIO, is_extreme, known_orientation
from ..data.image_pixels import pillow_pixels, to_8_bits, turn
from ..errors import InputError

ImageLike = str | os.PathLike | np.ndarray | Image.Image
_EXPECTED = 'an image must be a path, a PIL image or an array of H x W x 3, uint8'
_CHANNELS = (1, 3, 4)


def list_images(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """Returns images as something to iterate over, also where a single one is given.

    Raises:
        InputError: If it is neither an image nor a collection of them.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray, Image.Image)):
        return [images]
    if isinstance(images, (list, tuple)):
        return images
    remedy = _remedy(images)
    if remedy or not isinstance(images, Iterable):
        raise InputError(f'{_EXPECTED}, but is {_name(images)}{remedy}')
    return images


def pixels_of(image: np.ndarray | Image.Image, channel_order: str) -> np.ndarray:
    """Returns the pixels of an image in memory.

    Args:
        image: A PIL image of any mode, which is turned by its EXIF orientation as a file is; or an
            array, uint8, of H x W (grey), H x W x 1, H x W x 3 or H x W x 4, whose transparency is
            dropped.
        channel_order: Order of the channels of arrays, 'bgr' or 'rgb'.

    Returns:
        H x W x 3, uint8, BGR.

    Raises:
        InputError: If it is something else, empty, or of an extreme shape.
    """
    if isinstance(image, Image.Image):
        pixels = _from_pil(image)
    elif isinstance(image, np.ndarray):
        pixels = _from_array(image, channel_order)
    else:
        raise InputError(f'{_EXPECTED}, but is {_name(image)}{_remedy(image)}')
    height, width = pixels.shape[:2]
    if is_extreme(width, height):
        raise InputError(
            f'the image has {width} x {height} pixels, but a side may be at most '
            f'{MAX_ASPECT_RATIO} times as long as the other one; cut it into pieces'
        )
    return np.ascontiguousarray(pixels)


def _from_pil(image: Image.Image) -> np.ndarray:
    try:
        pixels = to_8_bits(pillow_pixels(image))
        return turn(pixels, known_orientation(image))
    except Exception as error:  # a file that is opened but not read yet
        raise InputError(f'the PIL image cannot be read ({error})') from error


def _from_array(image: np.ndarray, channel_order: str) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in _CHANNELS:
        raise InputError(
            f'{_EXPECTED}, but has the shape {image.shape} and the dtype {image.dtype}'
            f'{_array_remedy(image)}'
        )
    if not image.size:
        raise InputError(f'{_EXPECTED}, but has the shape {image.shape}, without a pixel')
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return image[..., :3] if channel_order == 'bgr' else image[..., 2::-1]


def _array_remedy(image: np.ndarray) -> str:
    if image.ndim == 4:
        return '; give several images as a list, list(images)'
    if image.ndim == 3 and image.shape[0] in _CHANNELS and image.shape[2] not in _CHANNELS:
        return '; move the channels to the end with image.transpose(1, 2, 0)'
    if image.dtype.kind == 'f':
        return '; bring the values to 0..255 and convert them with .astype(np.uint8)'
    if image.dtype != np.uint8:
        return '; scale the values to 0..255 and convert them with .astype(np.uint8)'
    return ''


def _remedy(image: Any) -> str:
    """Returns what to do with things that hold an image in a different way."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return '; open them with PIL.Image.open(io.BytesIO(data))'
    if hasattr(image, 'detach') and hasattr(image, 'numpy'):
        return (
            '; convert a tensor of 3 x H x W with values in 0..255 with '
            "tensor.permute(1, 2, 0).byte().cpu().numpy(), and give its channel_order ('rgb')"
        )
    if isinstance(image, (list, tuple)):
        return '; give one list of images, without lists in it'
    return ''


def _name(value: Any) -> str:
    kind = type(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    module = '' if kind.__module__ == 'builtins' else f'{kind.__module__}.'
    return f'of type {module}{kind.__name__}'
