"""Image files of unknown origin, read whole and checked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import InputError
from .image_header import MAX_PIXELS, check_size, read_header
from .image_pixels import decode


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
        InputError: If it is not a valid image, has more than ``MAX_PIXELS`` pixels, or an extreme
            shape.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path} is a folder, but an image file is expected; name the files in it')
    if not path.is_file():
        raise FileNotFoundError(f'image {path} does not exist; check the path')
    try:
        content = path.read_bytes()
        header = read_header(content)
        check_size(header, MAX_PIXELS)
        return decode(content, header, annotated_size)
    except InputError as error:
        raise InputError(f'{path} is not a valid image ({error})') from error
