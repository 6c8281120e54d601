"""What the bytes of an image file say before it is decoded, and decoding it with care."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

# 100 megapixels are 300 MB of decoded picture. Pillow has a limit of its own, at 179 megapixels.
MAX_PIXELS = 100_000_000

_ORIENTATION_TAG = 0x0112
# EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file declares.

    Attributes:
        width: Width in pixels as stored.
        height: Height in pixels as stored.
        orientation: EXIF orientation, 1 to 8; 1 where there is none.
    """

    width: int
    height: int
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """``(width, height)`` without regard to the orientation."""
        return self.width, self.height

    @property
    def shown_size(self) -> tuple[int, int]:
        """``(width, height)`` after turning the picture as its orientation says."""
        turned = self.orientation in _TURNED
        return (self.height, self.width) if turned else (self.width, self.height)


def read_header(content: bytes) -> ImageHeader:
    """Reads size and orientation without decoding the picture.

    Raises:
        InputError: If the bytes are no image.
    """
    if not content:
        raise InputError('the file is empty')
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            # Not image.getexif(), which for some formats decodes the picture.
            orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Image.DecompressionBombError as error:
        raise InputError(f'the file declares more pixels than can be meant ({error})') from error
    except UnidentifiedImageError as error:
        raise InputError('the file is not an image') from error
    except Exception as error:  # broken headers raise whatever a parser of the format raises
        raise InputError(f'the header of the file is broken ({error})') from error
    known = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return ImageHeader(width, height, known)


def check_size(header: ImageHeader, max_pixels: int) -> None:
    """Refuses images that would fill the memory.

    Raises:
        InputError: If there are more pixels.
    """
    if header.width * header.height > max_pixels:
        raise InputError(
            f'the file declares {header.width} x {header.height} pixels, more than the allowed '
            f'{max_pixels:,} (max_pixels of CheckedLoadImageFromFile in a pipeline)'
        )


def is_cut_off(content: bytes) -> bool:
    """Whether a JPEG file ends before its picture does; such files decode to grey areas."""
    if content[:2] != b'\xff\xd8':
        return False
    position = 2
    while content[position : position + 1] == b'\xff' and position + 4 <= len(content):
        marker = content[position + 1]
        if marker == 0xDA:  # start of scan: the end marker follows, after thumbnails in headers
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
    """Decodes an image the way its annotations see it.

    OpenCV turns pictures by their EXIF orientation. Annotations made without doing so give the
    stored size; their picture is not turned.

    Args:
        content: Bytes of the file.
        header: What they declare.
        annotated_size: ``(width, height)`` in the annotation file, if known.
        flag: As for ``mmcv.imfrombytes``.
        backend: As for ``mmcv.imfrombytes``.

    Returns:
        The picture, (H, W, 3) uint8 BGR with the flag 'color'.

    Raises:
        InputError: If it cannot be decoded.
    """
    if is_cut_off(content):
        raise InputError('the file is cut off')
    if flag in ('color', 'grayscale') and ignores_orientation(header, annotated_size):
        flag += '_ignore_orientation'
    try:
        image = mmcv.imfrombytes(content, flag=flag, backend=backend)
    except Exception as error:  # each backend has errors of its own
        raise InputError(f'the file cannot be decoded ({error})') from error
    if image is None:
        raise InputError('the file cannot be decoded')
    return image


def read_image(
    path: str | os.PathLike, annotated_size: tuple[float, float] | None = None
) -> np.ndarray:
    """Reads an image file of unknown origin, as the data sets of this project do.

    Args:
        path: A local file.
        annotated_size: ``(width, height)`` in the annotation file, if known; see ``decode``.

    Returns:
        The picture, (H, W, 3) uint8 BGR.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is no image, damaged, or of more than ``MAX_PIXELS`` pixels.
    """
    content, header = check_image(path)
    try:
        return decode(content, header, annotated_size)
    except InputError as error:
        raise InputError(f'{path} is damaged or no image ({error})') from error


def check_image(path: str | os.PathLike) -> tuple[bytes, ImageHeader]:
    """Looks whether a file is an image that can be decoded, as a whole.

    Returns:
        The content of the file and what its header declares.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is no image, damaged, or of more than ``MAX_PIXELS`` pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'image {path} does not exist; check the path')
    content = path.read_bytes()
    try:
        header = read_header(content)
        check_size(header, MAX_PIXELS)
        # OpenCV fills what is missing of a file with grey and says nothing.
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception as error:  # parsers of broken files raise anything
        reason = ' '.join(str(error).split())
        raise InputError(f'{path} is damaged or no image ({reason})') from error
    return content, header


def ignores_orientation(header: ImageHeader, annotated_size: tuple[float, float] | None) -> bool:
    """Whether annotations were made on the picture as stored, not as its orientation shows it."""
    return (
        annotated_size is not None
        and header.stored_size != header.shown_size
        and tuple(annotated_size) == header.stored_size
    )
