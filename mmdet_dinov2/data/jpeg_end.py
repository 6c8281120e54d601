"""Whether a JPEG file holds all of its image."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ..errors import InputError

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
# Frame headers; C4, C8 and CC are something else (ITU T.81, table B.1).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_COEFFICIENTS = 64
# Bits that decode to something else than the nothing that decoders put in place of a missing end.
_OTHER_ENDS = (b'\x55' * 64, b'\xaa' * 64)
# So many zeros at the end were never written: the disk or the download stopped there.
_ZEROS = bytes(16)


def whole_jpeg(content: bytes) -> bytes:
    """Returns a JPEG file that ends with its end marker, which some cameras do not write.

    Args:
        content: All bytes of the file.

    Raises:
        InputError: If the file ends before its image does. Such files decode to grey areas.
    """
    # An end marker before the first scan is that of a thumbnail.
    start = next((position for marker, position in _segments(content) if marker == _SCAN), None)
    if start is None:
        raise InputError('the file is cut off')
    if content.find(JPEG_END, start) >= 0:
        return content
    if content.endswith(_ZEROS):
        content = content.rstrip(b'\0')
        if content.endswith(b'\xff'):  # as data, it is followed by a zero
            content += b'\0'
    content = content.removesuffix(JPEG_END[:1])
    segments = list(_segments(content))
    if not (_has_all_scans(content, segments) and _ends_after_image(content, segments)):
        raise InputError('the file is cut off')
    return content + JPEG_END


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields the marker and the position of each segment of the file, up to its end."""
    position = len(JPEG_START)
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        yield marker, position
        position += 2 + _length(content, position)
        if marker == _SCAN:
            position = _end_of_scan(content, position)


def _length(content: bytes, position: int) -> int:
    return int.from_bytes(content[position + 2 : position + 4], 'big')


def _end_of_scan(content: bytes, position: int) -> int:
    """Returns the position of the first marker that does not belong to the data of a scan."""
    while (position := content.find(b'\xff', position)) >= 0:
        following = content[position + 1 : position + 2]
        if following and following != b'\0' and not 0xD0 <= following[0] <= 0xD7:
            return position
        position += 2
    return len(content)


def _has_all_scans(content: bytes, segments: list[tuple[int, int]]) -> bool:
    """Returns whether the scans hold all coefficients of all components with all bits.

    The image of a progressive file, and that of some others, is divided into scans.
    """
    frames = [position for marker, position in segments if marker in _FRAMES]
    if not frames:
        return False
    # Length, precision, height, width, number of components; then 3 bytes for each.
    count = content[frames[0] + 9]
    missing = {content[frames[0] + 10 + 3 * k]: set(range(_COEFFICIENTS)) for k in range(count)}
    for marker, position in segments:
        if marker != _SCAN:
            continue
        if position + 2 + _length(content, position) > len(content):
            return False
        count = content[position + 4]
        first, last, bits = content[position + 5 + 2 * count :][:3]
        if bits & 0x0F == 0:  # the lowest bit too
            for k in range(count):
                component = content[position + 5 + 2 * k]
                missing.get(component, set()).difference_update(range(first, last + 1))
    return not any(missing.values())


def _ends_after_image(content: bytes, segments: list[tuple[int, int]]) -> bool:
    """Returns whether bits after the last ones change nothing, as all pixels have theirs."""
    ends = [b'', *_OTHER_ENDS]
    if any(marker == _RESTART_INTERVAL for marker, _ in segments):
        # The next interval would begin with one of the eight restart markers.
        ends += [bytes((0xFF, 0xD0 + k)) + end for k in range(8) for end in _OTHER_ENDS]
    decoded = (_decode(content + end + JPEG_END) for end in ends)
    first = next(decoded)
    return all(np.array_equal(first, other) for other in decoded)


def _decode(content: bytes) -> np.ndarray:
    # Not OpenCV, which prints that there are bits after the image.
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)
