"""Headers of image files, read before anything is decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import InputError

# 100 megapixels are 300 MB of decoded image. Pillow has its own limit, at 179 megapixels.
MAX_PIXELS = 100_000_000
# A picture that is 200 times as long as wide has less than one row of pixels after resizing.
MAX_ASPECT_RATIO = 200

_ORIENTATION_TAG, _WIDTH_TAG, _HEIGHT_TAG = 0x0112, 0x0100, 0x0101
# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)
# For these Pillow runs a program, Ghostscript.
_PROGRAMS = ('EPS',)
_TIFF_STARTS = (b'II*\0', b'MM\0*')


@dataclass(frozen=True)
class ImageHeader:
    """What an image file declares.

    Attributes:
        width: Width in pixels as stored.
        height: Height in pixels as stored.
        orientation: EXIF orientation, 1 to 8; 1 if the file has none.
        format: Pillow's name of the format; ``None`` for a TIFF file that only OpenCV reads.
    """

    width: int
    height: int
    orientation: int
    format: str | None = None

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
            if image.format in _PROGRAMS:
                raise InputError(f'the file is not an image but {image.format}; convert it to PNG')
            if image.format == 'TIFF':
                # Some versions of Pillow give the size after turning the image.
                return _tiff_header(image.tag_v2, 'TIFF')
            return ImageHeader(*image.size, known_orientation(image), image.format)
    except Image.DecompressionBombError as error:
        raise InputError(f'the file declares too many pixels ({error})') from error
    except (FileNotFoundError, InputError):
        raise
    except UnidentifiedImageError as error:
        header = _unidentified_tiff(content)
        if header is None:
            raise InputError(f'the file is not an image{_what_it_is(content)}') from error
        return header
    except Exception as error:  # parsers of broken headers raise anything
        raise InputError(f'the header of the file is broken ({error})') from error


def check_size(header: ImageHeader, max_pixels: int) -> None:
    """Refuses images that would fill the memory, and those too long and narrow to be resized.

    Raises:
        InputError: If the image has more than ``max_pixels`` pixels, or if a side has more than
            ``MAX_ASPECT_RATIO`` times as many as the other one.
    """
    size = f'{header.width} x {header.height}'
    if header.width * header.height > max_pixels:
        raise InputError(
            f'the file declares {size} pixels, but at most '
            f'{max_pixels:,} are allowed (max_pixels of CheckedLoadImageFromFile in a pipeline)'
        )
    if is_extreme(*header.stored_size):
        raise InputError(
            f'the image has {size} pixels, but a side may be at most {MAX_ASPECT_RATIO} times as '
            'long as the other one; cut it into pieces'
        )


def is_extreme(width: float, height: float) -> bool:
    """Returns whether an image of this size is too long and narrow to be resized."""
    return max(width, height) > MAX_ASPECT_RATIO * min(width, height)


def ignores_orientation(header: ImageHeader, annotated_size: tuple[float, float] | None) -> bool:
    """Returns whether annotations were made on the stored image, without its EXIF rotation."""
    return (
        annotated_size is not None
        and header.stored_size != header.shown_size
        and tuple(annotated_size) == header.stored_size
    )


def known_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of Pillow's image, 1 to 8; 1 if it has none."""
    # Not image.getexif(), which decodes images of some formats.
    return _known(Image.Image.getexif(image).get(_ORIENTATION_TAG))


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _tiff_header(tags: ImageFileDirectory_v2, format_: str | None) -> ImageHeader:
    orientation = _known(tags.get(_ORIENTATION_TAG))
    return ImageHeader(int(tags[_WIDTH_TAG]), int(tags[_HEIGHT_TAG]), orientation, format_)


def _unidentified_tiff(content: bytes | Path) -> ImageHeader | None:
    """Reads the header of a TIFF file that Pillow does not know, such as one of floats in RGB."""
    if isinstance(content, Path):
        with content.open('rb') as opened:
            begins_so = opened.read(4) in _TIFF_STARTS
        data = content.read_bytes() if begins_so else b''
    else:
        data = content
    if data[:4] not in _TIFF_STARTS:
        return None
    file = io.BytesIO(data)
    try:
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return _tiff_header(tags, None)
    except Exception:  # parsers of broken headers raise anything
        return None


def _what_it_is(content: bytes | Path) -> str:
    """Returns what to do with files that people often take for images, as the end of a sentence."""
    if isinstance(content, Path):
        with content.open('rb') as file:
            content = file.read(64)
    if content[4:8] == b'ftyp':
        return ' that can be read here but HEIF (HEIC), as phones write it; convert it to JPEG'
    if content.startswith(b'version https://git-lfs'):
        return ' but a pointer of Git LFS; run `git lfs pull` where it comes from'
    return ''
