"""Encodings of positions by sines and cosines, for all positions of a batch at once."""

from __future__ import annotations

import math

import torch
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor

from ..layers import PyramidLayout


def sine_periods(num_feats: int, temperature: float, device: torch.device) -> Tensor:
    """Returns the numbers that positions are divided by, shape (num_feats / 2,), fp32.

    Args:
        num_feats: Channels of a position along one axis.
        temperature: Ratio of the longest period to the shortest, if there were infinitely many.
        device: Device of the result.
    """
    channels = torch.arange(0, num_feats, 2, dtype=torch.float32, device=device)
    return temperature ** (channels / num_feats)


def sine_encoding(positions: Tensor, periods: Tensor) -> Tensor:
    """Encodes numbers by sines and cosines (DETR, arXiv:2005.12872; arXiv:1706.03762).

    Args:
        positions: Shape (..., N).
        periods: What :func:`sine_periods` returned, for F channels.

    Returns:
        Shape (..., N * F): for each number, sine and cosine of its quotients with the periods, in
        turns.
    """
    phases = positions[..., None] / periods
    return torch.stack((phases.sin(), phases.cos()), -1).flatten(-3)


class CellEncoding(SinePositionalEncoding):
    """mmdet's ``SinePositionalEncoding`` for a stream of cells.

    The encodings are the same. mmdet counts the valid cells of each level in a mask; here they are
    numbered already, for all levels of all images together.

    Args:
        *args: As for mmdet's class.
        **kwargs: As for mmdet's class.
    """

    def forward(self, layout: PyramidLayout) -> Tensor:
        """Encodes the row and the column of each cell.

        Args:
            layout: Where the cells come from.

        Returns:
            Shape (T, 2 * num_feats), fp32; first the channels of the rows.
        """
        # The first row and the first column are 1.
        first = 1.0 + self.offset if self.normalize else 1.0
        positions = layout.cells.flip(1) + first
        if self.normalize:
            positions = positions / (layout.sides.flip(1) + self.eps) * self.scale
        periods = sine_periods(self.num_feats, self.temperature, positions.device)
        return sine_encoding(positions, periods)


def encode_boxes(boxes: Tensor, periods: Tensor) -> Tensor:
    """Encodes boxes as mmdet's ``coordinate_to_encoding`` does.

    Args:
        boxes: (cx, cy, w, h) relative to the image, shape (..., 4).
        periods: What :func:`sine_periods` returned, for F channels.

    Returns:
        Shape (..., 4 * F), in the order cy, cx, w, h.
    """
    x, y, width, height = (boxes * (2 * math.pi)).unbind(-1)
    return sine_encoding(torch.stack((y, x, width, height), -1), periods)
