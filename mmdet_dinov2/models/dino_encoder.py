"""mmdet's deformable encoder with reference points at the same place on every level."""

from __future__ import annotations

import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmengine.model import ModuleList
from torch import Tensor

from .transformer_layers import EncoderLayer, set_recomputed

# Rounding errors of coordinates are a hundred times smaller.
_SHIFT_IN_CELLS = 2.0**-10


class PaddingAwareEncoder(DeformableDetrTransformerEncoder):
    """Deformable DETR encoder (arXiv:2010.04159) on levels that cover the same canvas.

    Args:
        *args: As for mmdet's ``DeformableDetrTransformerEncoder``.
        with_cp: Whether all layers recompute their activations in the backward pass.
        num_cp: Number of layers, from the first, that do; -1 is none. mmdet needs fairscale
            for it.
        **kwargs: As for mmdet's ``DeformableDetrTransformerEncoder``.

    Raises:
        InputError: If there are fewer layers than ``num_cp``, or both are given.
    """

    def __init__(self, *args, with_cp: bool = False, num_cp: int = -1, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        set_recomputed(self.layers, with_cp, num_cp, 'encoder')

    def _init_layers(self) -> None:
        self.layers = ModuleList(EncoderLayer(**self.layer_cfg) for _ in range(self.num_layers))
        self.embed_dims = self.layers[0].embed_dims

    @staticmethod
    def get_encoder_reference_points(
        spatial_shapes: Tensor, valid_ratios: Tensor, device: torch.device | str
    ) -> Tensor:
        """Centre of each position, relative to the canvas.

        All levels cover the same canvas, so the centre is the same point on each of them. (mmdet
        goes by the valid share of each level, which rounding makes unequal.)

        Args:
            spatial_shapes: Height and width of each level, shape (levels, 2).
            valid_ratios: Shape (B, levels, 2); only the shape counts.
            device: Device of the result.

        Returns:
            Points (x, y) in [0, 1], shape (B, N, levels, 2); see :func:`sampling_shift`.
        """
        centers = level_centers(spatial_shapes, torch.device(device))
        batch, levels, _ = valid_ratios.shape
        points = centers[None, :, None].expand(batch, -1, levels, -1)
        return points + sampling_shift(spatial_shapes, points.device)


def sampling_shift(spatial_shapes: Tensor, device: torch.device) -> Tensor:
    """A thousandth of a cell, relative to the canvas, for reference points of each level.

    The initial sampling offsets are whole cells, so that points of a cell's own level fall exactly
    between two linear pieces of the bilinear interpolation. Its gradient there is decided by
    rounding, which depends on the size of the canvas: without the shift, gradients of the offsets
    differ by up to 20 % between an image alone and the same image in a batch.

    Args:
        spatial_shapes: Height and width of each level, shape (levels, 2).
        device: Device of the result.

    Returns:
        Shift (x, y) of each level, shape (levels, 2).
    """
    return _SHIFT_IN_CELLS / spatial_shapes.flip(1).to(device=device, dtype=torch.float32)


def level_centers(spatial_shapes: Tensor, device: torch.device) -> Tensor:
    """Centres (x, y) of all cells of all levels, relative to the canvas, shape (N, 2)."""
    levels = []
    for height, width in spatial_shapes.tolist():
        rows = (torch.arange(height, device=device) + 0.5) / height
        cols = (torch.arange(width, device=device) + 0.5) / width
        levels.append(torch.stack(torch.meshgrid(cols, rows, indexing='xy'), -1).flatten(0, 1))
    return torch.cat(levels)
