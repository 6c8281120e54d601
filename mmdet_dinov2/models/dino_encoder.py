"""mmdet's deformable encoder with reference points at the same place on every level."""

from __future__ import annotations

import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from torch import Tensor


class PaddingAwareEncoder(DeformableDetrTransformerEncoder):
    """Deformable DETR encoder (arXiv:2010.04159) on levels that cover the same canvas."""

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
            Points (x, y) in [0, 1], shape (B, N, levels, 2).
        """
        centers = level_centers(spatial_shapes, torch.device(device))
        batch, levels, _ = valid_ratios.shape
        return centers[None, :, None].expand(batch, -1, levels, -1)


def level_centers(spatial_shapes: Tensor, device: torch.device) -> Tensor:
    """Centres (x, y) of all cells of all levels, relative to the canvas, shape (N, 2)."""
    levels = []
    for height, width in spatial_shapes.tolist():
        rows = (torch.arange(height, device=device) + 0.5) / height
        cols = (torch.arange(width, device=device) + 0.5) / width
        levels.append(torch.stack(torch.meshgrid(cols, rows, indexing='xy'), -1).flatten(0, 1))
    return torch.cat(levels)
