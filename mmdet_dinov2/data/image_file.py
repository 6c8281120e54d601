"""Headers of image files, read before anything is decoded, and careful decoding."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

# 100 megapixels are 300 MB of decoded image. Pillow has its own limit, at 179 megapixels.
MAX_PIXELS = 100_000_000

_ORIENTATION_TAG = 0x0112
# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file declares.

    Attributes:
        width: Width in pixels as stored.
        height: Height in pixels as stored.
        orientation: EXIF orientation, 1 to 8; 1 if the file has none.
    """

    width: int
    height: int
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels, ignoring the orientation."""
        return self.width, self.height

    @property
    def shown_size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels after rotating the image as its orientation says."""
        sideways = self.orientation in _SIDEWAYS
        return (self.height, self.width) if sideways else (self.width, self.height)


def read_header(content: bytes | Path) -> ImageHeader:
    """Reads size and orientation without decoding the image.

    Args:
        content: All bytes of a file, or its path, of which only the header is read.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a valid image.
    """
    if content == b'':
        raise InputError('the file is empty')
    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as image:
            width, height = image.size
            # Not image.getexif(), which decodes images of some formats.
            orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Image.DecompressionBombError as error:
        raise InputError(f'the file declares too many pixels ({error})') from error
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise InputError('the file is not an image') from error
    except Exception as error:  # parsers of broken headers raise anything
        raise InputError(f'the header of the file is broken ({error})') from error
    known = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return ImageHeader(width, height, known)


def check_size(header: ImageHeader, max_pixels: int) -> None:
    """Refuses images that would fill the memory.

    Raises:
        InputError: If the image has more than ``max_pixels`` pixels.
    """
    if header.width * header.height > max_pixels:
        raise InputError(
            f'the file declares {header.width} x {header.height} pixels, but at most '
            f'{max_pixels:,} are allowed (max_pixels of CheckedLoadImageFromFile in a pipeline)'
        )


def is_cut_off(content: bytes) -> bool:
    """Returns whether a JPEG file ends before its image does; such files decode to grey areas."""
    if content[:2] != b'\xff\xd8':
        return False
    position = 2
    while content[position : position + 1] == b'\xff' and position + 4 <= len(content):
        marker = content[position + 1]
        if marker == 0xDA:  # start of scan: an end marker before it is that of a thumbnail
            return content.find(b'\xff\xd9', position) < 0
        if marker == 0xFF:  # padding
            position += 1
            continue
        position += 2 + int.from_bytes(content[position + 2 : position + 4], 'big')
    return True


def decode(
    content: bytes,
    header: ImageHeader,
    annotated_size: tuple[float, float] | None = None,
    flag: str = 'color',
    backend: str = 'cv2',
) -> np.ndarray:
    """Decodes an image with the rotation that its annotations assume.

    OpenCV rotates images by their EXIF orientation. Annotations that were made without it give the
    stored size; their images are not rotated.

    Args:
        content: All bytes of the file.
        header: Its header.
        annotated_size: ``(width, height)`` in the annotation file, if known.
        flag: As for ``mmcv.imfrombytes``.
        backend: As for ``mmcv.imfrombytes``.

    Returns:
        The image, (H, W, 3) uint8 BGR if the flag is 'color'.

    Raises:
        InputError: If it cannot be decoded.
    """
    if is_cut_off(content):
        raise InputError('the file is cut off')
    if flag in ('color', 'grayscale') and ignores_orientation(header, annotated_size):
        flag += '_ignore_orientation'
    try:
        image = mmcv.imfrombytes(content, flag=flag, backend=backend)
    except Exception as error:  # each backend has its own errors
        raise InputError(f'the file cannot be decoded ({error})') from error
    if image is None:
        raise InputError('the file cannot be decoded')
    return image


def read_image(
    path: str | os.PathLike, annotated_size: tuple[float, float] | None = None
) -> np.ndarray:
    """Reads an image file of unknown origin, as the datasets of this project do.

    Args:
        path: A local file.
        annotated_size: ``(width, height)`` in the annotation file, if known; see ``decode``.

    Returns:
        The image, (H, W, 3) uint8 BGR.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a valid image, or has more than ``MAX_PIXELS`` pixels.
    """
    content, header = check_image(path)
    try:
        return decode(content, header, annotated_size)
    except InputError as error:
        raise InputError(f'{path} is not a valid image ({error})') from error


def check_image(path: str | os.PathLike) -> tuple[bytes, ImageHeader]:
    """Checks that a file is an image that can be decoded completely.

    Returns:
        The content of the file and its header.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a valid image, or has more than ``MAX_PIXELS`` pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'image {path} does not exist; check the path')
    content = path.read_bytes()
    try:
        header = read_header(content)
        check_size(header, MAX_PIXELS)
        # Pillow raises where OpenCV silently fills what is missing with grey.
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception as error:  # parsers of broken files raise anything
        reason = ' '.join(str(error).split())
        raise InputError(f'{path} is not a valid image ({reason})') from error
    return content, header


def ignores_orientation(header: ImageHeader, annotated_size: tuple[float, float] | None) -> bool:
    """Returns whether annotations were made on the stored image, without its EXIF rotation."""
    return (
        annotated_size is not None
        and header.stored_size != header.shown_size
        and tuple(annotated_size) == header.stored_size
    )
