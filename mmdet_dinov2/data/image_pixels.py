"""From the bytes of an image file to its pixels: the one place that decodes and turns images."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import mmcv
import numpy as np
from PIL import Image

from ..errors import InputError
from .image_header import ImageHeader, ignores_orientation
from .jpeg_end import whole_jpeg

_CV2_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
# Formats that Pillow turns by their orientation while it loads them.
_TURNED_BY_PILLOW = ('TIFF',)
# Pillow's modes of more than 8 bits, all of one channel.
_DEEP_MODES = ('I', 'F')
_IGNORE = '_ignore_orientation'
# The turn that undoes that of an orientation.
_UNDOES = {6: 8, 8: 6}


def decode(
    content: bytes,
    header: ImageHeader,
    annotated_size: tuple[float, float] | None = None,
    flag: str = 'color',
    backend: str = 'cv2',
) -> np.ndarray:
    """Decodes an image with the orientation that its annotations assume, to 8 bits per channel.

    - Images are turned by their EXIF orientation, in every format. Annotations that were made
      without it give the stored size; their images are not turned.
    - Values of more than 8 bits are spread: the lowest one of the image becomes 0, the highest 255.
    - Transparency is dropped. Of several images in a file, the first one is taken.

    Args:
        content: All bytes of the file.
        header: Its header.
        annotated_size: ``(width, height)`` in the annotation file, if known.
        flag: As for ``mmcv.imfrombytes``.
        backend: As for ``mmcv.imfrombytes``. Flags other than 'color' and 'grayscale', and
            backends other than 'cv2', are left to mmcv.

    Returns:
        The image, (H, W, 3) uint8 BGR if the flag is 'color', (H, W) if it is 'grayscale'.

    Raises:
        InputError: If it cannot be decoded.
    """
    kind = flag.removesuffix(_IGNORE)
    turned = kind == flag and not ignores_orientation(header, annotated_size)
    if kind not in ('color', 'grayscale') or backend != 'cv2':
        if kind in ('color', 'grayscale') and not turned:
            flag = kind + _IGNORE
        with _decoding():
            image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        return _decoded(image)
    image = to_8_bits(read_pixels(content, header, turned))
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if kind == 'grayscale' else image


def read_pixels(content: bytes, header: ImageHeader, turned: bool = True) -> np.ndarray:
    """Decodes an image with all of its bits.

    Args:
        content: All bytes of the file.
        header: Its header.
        turned: Whether to turn it by its EXIF orientation.

    Returns:
        (H, W, 3) BGR, uint8 or of a deeper type.

    Raises:
        InputError: If it cannot be decoded, or not to the size that its header has.
    """
    with _decoding():
        if header.format in ('JPEG', 'MPO'):
            pixels, is_turned = _from_opencv(whole_jpeg(content)), False
        elif header.format is None:
            pixels, is_turned = _from_opencv(content), True
        else:
            pixels, is_turned = _from_pillow(content, header)
    pixels = _decoded(pixels)
    if is_turned != turned:
        orientation = header.orientation
        pixels = turn(pixels, orientation if turned else _UNDOES.get(orientation, orientation))
    expected = header.shown_size if turned else header.stored_size
    if pixels.shape[1::-1] != expected:
        raise InputError(
            'the file declares {} x {} pixels'.format(*expected)
            + ', but decodes to {1} x {0}'.format(*pixels.shape)
        )
    return np.ascontiguousarray(pixels)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image, (H, W, ...), as an EXIF orientation of 1 to 8 asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Spreads values of more than 8 bits: the lowest one becomes 0, the highest 255.

    Cameras use a part of the bits only. Infinite values and values that are not numbers become 0.
    """
    if pixels.dtype == np.uint8:
        return pixels
    low, high = value_range(pixels)
    values = (pixels.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0).round().astype(np.uint8)


def value_range(pixels: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and the highest finite value; zeros if there is none."""
    finite = pixels[np.isfinite(pixels)] if pixels.dtype.kind == 'f' else pixels
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each decoder has its own errors
        reason = ' '.join(str(error).split())
        raise InputError(f'the file cannot be decoded ({reason})') from error


def _decoded(image: np.ndarray | None) -> np.ndarray:
    if image is None:
        raise InputError('the file cannot be decoded')
    return image


def _from_opencv(content: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(content, np.uint8), _CV2_FLAGS)


def _from_pillow(content: bytes, header: ImageHeader) -> tuple[np.ndarray | None, bool]:
    """Returns the pixels and whether they are turned.

    Pillow reads more formats and modes than OpenCV, and raises where a file is cut off.
    """
    is_turned = header.format in _TURNED_BY_PILLOW
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in _DEEP_MODES and not image.mode.startswith('I;') and _is_deep(image):
            image.load()  # raises if the file is cut off
            return _from_opencv(content), is_turned
        return pillow_pixels(image), is_turned


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """Returns the pixels of Pillow's image, (H, W, 3) BGR, uint8 or of a deeper type."""
    image.load()
    if image.mode in _DEEP_MODES or image.mode.startswith('I;'):
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)
    if 'transparency' in image.info:  # Pillow warns about some kinds
        image = image.copy()
        del image.info['transparency']
    return np.asarray(image.convert('RGB'))[..., ::-1]


def _is_deep(image: Image.Image) -> bool:
    """Returns whether Pillow would drop the lower bits of an image with several channels."""
    return image.format == 'PPM' or any(';16' in str(tile[3]) for tile in image.tile)
