"""Image files that are sound, broken, hostile or rotated."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(width=40, height=30, seed=0):
    """Returns a noisy image whose top left quarter is black and whose other pixels are bright."""
    pixels = np.random.default_rng(seed).integers(100, 255, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 0
    return Image.fromarray(pixels)


def jpeg(width=40, height=30, seed=0, orientation=None, thumbnail=b''):
    """Returns a JPEG file, with an EXIF orientation and bytes after it in the same header."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    header = exif.tobytes() + thumbnail
    picture(width, height, seed).save(buffer, 'JPEG', quality=95, exif=header)
    return buffer.getvalue()


def cut_off_jpeg():
    """Returns the first part of a JPEG file, as an interrupted download leaves it.

    Its header holds the end marker of a thumbnail, which is not the end of the image.
    """
    content = jpeg(200, 150, orientation=1, thumbnail=b'\xff\xd8thumbnail\xff\xd9')
    return content[: len(content) // 2]


def bomb_png(width=60_000, height=60_000):
    """Returns a PNG file of some hundred bytes that declares billions of pixels."""

    def chunk(kind, data):
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    )


# Broken image files, and words of the messages about them.
BROKEN = {
    'empty': (b'', 'is empty'),
    'text': (b'<html>404 Not Found</html>', 'is not an image'),
    'cut off': (cut_off_jpeg(), 'is cut off'),
    'header only': (jpeg()[:30], ''),
    'broken header': (bomb_png()[:20] + b'\0' * 40, ''),
    # Pillow refuses it first, unless another package (sahi) has switched Pillow's limit off.
    'bomb': (bomb_png(), 'the file declares'),
    'large': (
        bomb_png(12_000, 10_000),
        '12000 x 10000 pixels, but at most 100,000,000 are allowed',
    ),
    'broken rows': (bomb_png(300, 200)[:60] + b'\xff' * 20, ''),
}


def tiff(pixels, orientation=1):
    """Returns an uncompressed TIFF file of (H, W) or (H, W, 3) pixels, RGB, of any type.

    Pillow does not write several channels of more than 8 bits.
    """
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    bits = 8 * pixels.dtype.itemsize
    kind = {'u': 1, 'i': 2, 'f': 3}[pixels.dtype.kind]
    start = 8 + 3 * 2
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, bits if channels == 1 else 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (273, 4, 1, start),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, pixels.nbytes),
        (284, 3, 1, 1),
        (339, 3, 1, kind) if channels == 1 else (339, 3, 3, start + pixels.nbytes),
    ]
    data = struct.pack('<3H', *[bits] * 3) + pixels.tobytes() + struct.pack('<3H', *[kind] * 3)
    entries = b''.join(struct.pack('<HHII', *tag) for tag in tags)
    directory = struct.pack('<H', len(tags)) + entries + struct.pack('<I', 0)
    return b'II*\0' + struct.pack('<I', 8 + len(data)) + data + directory


def encoded(image, format_, orientation=None, **kwargs):
    """Returns an image of Pillow as a file of a format."""
    buffer = io.BytesIO()
    if orientation is not None and format_ == 'TIFF':
        kwargs['tiffinfo'] = {0x0112: orientation}
    elif orientation is not None:
        kwargs['exif'] = Image.Exif()
        kwargs['exif'][0x0112] = orientation
    image.save(buffer, format_, **kwargs)
    return buffer.getvalue()
