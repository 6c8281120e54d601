"""Deformable encoder on a stream of cells, without padding."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import PyramidLayout
from .transformer_layers import EncoderLayer, build_layers


class PaddingAwareEncoder(BaseModule):
    """Deformable DETR encoder (arXiv:2010.04159) on the valid cells of all images.

    Parameters and their names are those of mmdet's ``DeformableDetrTransformerEncoder``. A further
    ``norm`` follows the last layer if layers have ``norm_first``, since they end in a sum.

    Args:
        num_layers: Number of layers. With 0 the memory is the stream itself, as in LW-DETR
            (arXiv:2406.03459).
        layer_cfg: Arguments of each :class:`.EncoderLayer`.
        deformable_attention: Implementation of the attention; see
            :func:`.deformable_attention.choose_implementation`.
        with_cp: Whether all layers compute their activations again in the backward pass.
        num_cp: Number of layers, from the first, that do; -1 for none. (mmdet needs fairscale for
            it.)
        compiled: Whether what works on each cell alone runs compiled.
        init_cfg: Initialisation config.

    Raises:
        InputError: If ``num_layers`` is negative or less than ``num_cp``, or ``with_cp`` and
            ``num_cp`` are both given.
    """

    def __init__(
        self,
        num_layers: int,
        layer_cfg: dict,
        deformable_attention: str = 'auto',
        with_cp: bool = False,
        num_cp: int = -1,
        compiled: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_layers = num_layers
        self.layers = build_layers(
            EncoderLayer, num_layers, 'encoder', with_cp, num_cp, least=0,
            **layer_cfg, deformable_attention=deformable_attention, compiled=compiled,
        )  # fmt: skip
        norm_first = any(layer.norm_first for layer in self.layers)
        self.norm = nn.LayerNorm(self.layers[0].embed_dims) if norm_first else nn.Identity()

    def forward(self, query: Tensor, query_pos: Tensor | None, layout: PyramidLayout) -> Tensor:
        """Runs the layers.

        Args:
            query: Stream of cells, shape (T, C).
            query_pos: Their positions, shape (T, C); not used without layers.
            layout: Where the cells come from.

        Returns:
            The memory, shape (T, C).
        """
        if not self.layers:
            return query
        reference_points = self.reference_points(layout)
        sides = layout.columns_rows[layout.images]
        for layer in self.layers:
            query = layer(
                query,
                query_pos,
                reference_points=reference_points,
                sides=sides,
                spatial_shapes=layout.shapes,
                query_images=layout.images,
            )
        return self.norm(query)

    @staticmethod
    def reference_points(layout: PyramidLayout) -> Tensor:
        """Returns the centre of each cell, relative to each level of its image.

        A cell lies at the same place of the image on all levels. (mmdet uses the valid share of
        each level, and rounding makes these shares unequal.)

        Sampling starts here plus an offset of whole cells. In images whose sides are multiples of
        the strides, these points would be kinks of the bilinear interpolation, where rounding
        decides the gradient: gradients of the offsets would differ by up to 20 % between an image
        alone and the same image in a batch. So all points are shifted by a thousandth of a cell
        (``shifts`` of the layout).

        Args:
            layout: Where the cells come from.

        Returns:
            Points (x, y), shape (T, levels, 2).
        """
        to_levels, shift = (t[layout.images] for t in (layout.extents, layout.shifts))
        return layout.centers[:, None] * to_levels + shift
