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
    'bomb': (bomb_png(), 'declares too many pixels'),
    'large': (
        bomb_png(12_000, 10_000),
        '12000 x 10000 pixels, but at most 100,000,000 are allowed',
    ),
    'broken rows': (bomb_png(300, 200)[:60] + b'\xff' * 20, ''),
}
