"""Which cells of a padded feature map belong to an image.

An image with a height of h pixels covers the first ceil(h / stride) rows of a map, whether it is
alone or in a batch with larger images.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

Size = tuple[int, int]


def valid_cells(img_shapes: Sequence[Size], stride: float) -> list[Size]:
    """Returns the rows and columns that each image covers on a map.

    Args:
        img_shapes: Height and width of each image in pixels; whole numbers, or symbols of a program
            that is being traced.
        stride: Pixels per cell.
    """
    # Rounded up in whole numbers, and positive ones: graphs round negative quotients differently.
    pixels, cells = Fraction(stride).as_integer_ratio()
    return [tuple((side * cells + pixels - 1) // pixels for side in shape) for shape in img_shapes]


def padding_mask(cells: Sequence[Size], size: Size, device: torch.device) -> Tensor | None:
    """Makes the mask of the padding of a batch of maps.

    Args:
        cells: Valid rows and columns of each image.
        size: Rows and columns of the maps.
        device: Device of the result.

    Returns:
        Bool tensor of shape (B, rows, cols), True at padding; None if there is no padding.
    """
    if all(valid == tuple(size) for valid in cells):
        return None
    # Made on the host, where sizes are known: a GPU would run five small kernels for each map.
    rows, cols = (
        torch.tensor([[place >= limit for place in range(side)] for limit in limits]).to(
            device, non_blocking=True
        )
        for side, limits in zip(size, zip(*cells, strict=True), strict=True)
    )
    return rows[:, :, None] | cols[:, None]


def zero_padding(maps: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Sets the padding cells of maps (B, C, rows, cols) to ``value``."""
    return maps if mask is None else maps.masked_fill(mask[:, None], value)


def note_sizes(maps: Tensor, img_shapes: Sequence[Size], stride: float = 1) -> Tensor:
    """Notes on a tensor which parts of it belong to the images.

    mmdet's detectors hand a tensor from the data preprocessor to the backbone and from there to the
    neck, and nothing else.

    Args:
        maps: Images or maps, shape (B, C, rows, cols); the note is an attribute of this object.
        img_shapes: Height and width of each image in pixels.
        stride: Pixels per cell.

    Returns:
        The tensor itself.
    """
    maps.image_sizes = tuple(img_shapes), stride
    return maps


def noted_sizes(maps: Tensor) -> tuple[tuple[Size, ...], float] | None:
    """Returns what :func:`note_sizes` noted, image shapes and stride; None without a note."""
    return getattr(maps, 'image_sizes', None)
