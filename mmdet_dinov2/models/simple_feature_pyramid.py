"""Simple feature pyramid of ViTDet, independent of padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import noted_sizes, padding_mask, valid_cells, zero_padding
from ..layers.padding import Size

POOLINGS = ('ceil', 'floor')


@MODELS.register_module()
class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map (B, C, H, W).

    ViTDet's LN of convolutions: ``norm_cfg=dict(type='ChannelLayerNorm', eps=1e-6)``.

    Args:
        *args: As for PyTorch's ``LayerNorm``.
        **kwargs: As for PyTorch's ``LayerNorm``.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ImageGroupNorm(nn.GroupNorm):
    """GroupNorm over the cells of each image, without the padding around them.

    Args:
        *args: As for PyTorch's ``GroupNorm``.
        **kwargs: As for PyTorch's ``GroupNorm``.
    """

    def forward(self, x: Tensor, cells: Sequence[Size] | None = None) -> Tensor:
        """Normalises maps.

        Args:
            x: Maps, shape (B, C, rows, cols).
            cells: Valid rows and columns of each image; None takes all.

        Returns:
            Normalised maps of the same shape, zero outside the valid cells.
        """
        rows, cols = x.shape[-2:]
        if cells is None or all(tuple(valid) == (rows, cols) for valid in cells):
            return super().forward(x)
        images = [
            F.pad(
                super(ImageGroupNorm, self).forward(image[None, :, :r, :c]),
                (0, cols - c, 0, rows - r),
            )
            for image, (r, c) in zip(x, cells, strict=True)
        ]
        return torch.cat(images)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Builds a pyramid from the maps of a plain ViT (ViTDet, arXiv:2203.16527, section 3).

    Each level resamples the same map, upwards with transposed convolutions and downwards with max
    pooling. A 1 x 1 and a 3 x 3 convolution without bias, each followed by LN, then map it to
    ``out_channels``. That map is the last one of the backbone, or several of its depths, joined by
    a 1 x 1 convolution and LN.

    No cell of an image depends on the padding around it: padding is zero before the 3 x 3
    convolutions, pooling leaves it out, and normalisation works on each position alone. Given
    ``img_shapes``, the levels of an image in a batch equal those of the image alone.

    Args:
        in_channels: Channels of the input map. Several numbers are those of as many maps, all of
            which are read (``out_indices`` of the backbone); they are joined to a map with the
            channels of the last one.
        out_channels: Channels of each level.
        scale_factors: Scale of each level relative to the input; powers of two, finest first.
        num_outs: Number of levels. Those beyond ``scale_factors`` take every second cell of the
            level before. None takes the number of scale factors.
        norm_cfg: ``dict(type='LN', eps=...)``. Other types are an error, because normalisation over
            the canvas mixes padding into the image.
        pooling: 'ceil': a level has a cell for every part of the image, ceil(size / stride) in each
            direction. 'floor': the cells of a level follow from those of the input, as in
            detectron2: n cells give n * scale, rounded down, but at least one. Coarse levels may
            lack the last row and column of the input.
        mapper_groups: Groups of the GN behind a 1 x 1 convolution with bias that follows each
            level, as in detrex's ``ChannelMapper``; 0 for no such layers. GN sees the cells of one
            image at a time, without padding.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int] = 768,
        out_channels: int = 256,
        scale_factors: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        num_outs: int | None = None,
        norm_cfg: dict | None = None,
        pooling: str = 'ceil',
        mapper_groups: int = 0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.scale_factors = tuple(scale_factors)
        self.pooling = pooling
        self.num_outs = len(self.scale_factors) if num_outs is None else num_outs
        norm_cfg = dict(norm_cfg or dict(type='LN', eps=1e-6))
        several = None if isinstance(in_channels, int) else tuple(in_channels)
        if several == ():
            raise ValueError('in_channels must name the channels of at least one map')
        in_channels = in_channels if several is None else several[-1]
        self._check(norm_cfg, in_channels)
        eps = norm_cfg.get('eps', 1e-6)
        # The number of maps that are read, the last one alone if None.
        self.num_ins = several and len(several)
        if several:
            self.fusion = nn.Sequential(
                nn.Conv2d(sum(several), in_channels, 1, bias=False),
                ChannelLayerNorm(in_channels, eps=eps),
            )
        self.resamplers = nn.ModuleList()
        self.projections = nn.ModuleList()
        self.smoothers = nn.ModuleList()
        for scale in self.scale_factors:
            resampler, channels = _build_resampler(in_channels, scale, eps)
            self.resamplers.append(resampler)
            self.projections.append(
                nn.Sequential(
                    nn.Conv2d(channels, out_channels, 1, bias=False),
                    ChannelLayerNorm(out_channels, eps=eps),
                )
            )
            self.smoothers.append(
                nn.Sequential(
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    ChannelLayerNorm(out_channels, eps=eps),
                )
            )
        self.mappers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(out_channels, out_channels, 1),
                ImageGroupNorm(mapper_groups, out_channels),
            )
            for _ in range(self.num_outs if mapper_groups else 0)
        )

    def _check(self, norm_cfg: dict, in_channels: int) -> None:
        if not self.scale_factors:
            raise ValueError('scale_factors must hold at least one scale')
        for scale in self.scale_factors:
            if scale <= 0 or not math.log2(scale).is_integer():
                raise ValueError(
                    f'scale_factors={self.scale_factors} must be powers of two such as 2, 1, 0.5, '
                    f'got {scale}'
                )
        if in_channels % max(1, int(max(self.scale_factors))):
            raise ValueError(
                f'in_channels={in_channels} cannot be halved at each doubling of the size up to '
                f'{max(self.scale_factors)}'
            )
        if self.num_outs < len(self.scale_factors):
            raise ValueError(
                f'num_outs={self.num_outs} is less than the {len(self.scale_factors)} '
                f'scale_factors {self.scale_factors}'
            )
        if norm_cfg.get('type') != 'LN' or set(norm_cfg) - {'type', 'eps'}:
            raise ValueError(
                f"norm_cfg={norm_cfg} must be dict(type='LN') with an optional eps: other "
                'normalisations mix the padding of a batch into its images'
            )
        if self.pooling not in POOLINGS:
            raise ValueError(f'pooling must be one of {POOLINGS}, got {self.pooling!r}')

    def strides(self, input_stride: float) -> tuple[float, ...]:
        """Returns the stride of each output level in pixels.

        Args:
            input_stride: Stride of the input map in pixels.
        """
        strides = [input_stride / scale for scale in self.scale_factors]
        for _ in range(self.num_outs - len(strides)):
            strides.append(2 * strides[-1])
        return tuple(strides)

    def grids(self, img_shapes: Sequence[Size], stride: float) -> list[list[Size]]:
        """Returns the valid rows and columns of each level, for each image.

        Args:
            img_shapes: Valid height and width of each image in pixels; whole numbers, or symbols of
                a program that is being traced.
            stride: Stride of the input map in pixels.
        """
        if self.pooling == 'ceil':
            return [valid_cells(img_shapes, level_stride) for level_stride in self.strides(stride)]
        cells = valid_cells(img_shapes, stride)
        levels = [
            [tuple(torch.sym_max(1, n * up // down) for n in of_image) for of_image in cells]
            for up, down in (scale.as_integer_ratio() for scale in self.scale_factors)
        ]
        for _ in range(self.num_outs - len(levels)):
            levels.append(valid_cells(levels[-1], 2))  # every second cell
        return levels

    def forward(
        self,
        inputs: Tensor | Sequence[Tensor],
        img_shapes: Sequence[tuple[int, int]] | None = None,
        stride: float | None = None,
        grid: Sequence[Size] | None = None,
    ) -> tuple[Tensor, ...]:
        """Computes the levels.

        Args:
            inputs: A map of shape (B, in_channels, H, W), or several of the same size, of which the
                last is taken unless ``in_channels`` has several numbers.
            img_shapes: Valid height and width of each image in pixels; None takes those that the
                backbone noted on the map, else all cells as valid.
            stride: Stride of the input map in pixels; needed with ``img_shapes``.
            grid: Rows and columns of each level, in place of ``img_shapes`` for images of one size
                that fill the input: enlarged maps are cut to it, and there is no padding.

        Returns:
            Levels of shape (B, out_channels, H * scale, W * scale), rounded as ``pooling`` says,
            finest first; padding is zero.

        Raises:
            ValueError: If ``img_shapes`` comes without ``stride``, or the number of maps is not
                that of ``in_channels``.
        """
        maps = [inputs] if isinstance(inputs, Tensor) else inputs
        if img_shapes is None and noted_sizes(maps[-1]) is not None:
            img_shapes, stride = noted_sizes(maps[-1])
        x = self._joined(maps)
        if img_shapes is not None and stride is None:
            raise ValueError(
                'img_shapes are in pixels and need the stride of the input, got stride=None'
            )
        # For each level, the valid cells of each image.
        grids = [None] * self.num_outs if img_shapes is None else self.grids(img_shapes, stride)
        cells = None if img_shapes is None else valid_cells(img_shapes, stride)
        outs: list[Tensor] = []
        for i, scale in enumerate(self.scale_factors):
            if scale < 1:
                resampled = _max_pool(x, round(1 / scale), _mask(x, cells), self.pooling == 'ceil')
            else:
                resampled = self.resamplers[i](x)
            if grid is not None:
                rows, cols = grid[i]
                resampled = resampled[..., :rows, :cols]
            mask = _mask(resampled, grids[i])
            projected = self.projections[i](zero_padding(resampled, mask))
            outs.append(zero_padding(self.smoothers[i](zero_padding(projected, mask)), mask))
        for _ in range(self.num_outs - len(outs)):
            # Every second cell. Those of a slice would lie apart in memory, and mmdet's detectors
            # could not flatten them with ``view``.
            outs.append(F.max_pool2d(outs[-1], 1, 2))
        if not self.mappers:
            return tuple(outs)
        return tuple(
            norm(conv(out), valid)
            for out, (conv, norm), valid in zip(outs, self.mappers, grids, strict=True)
        )

    def _joined(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the map that all levels are made from, not zero at padding."""
        if self.num_ins is None:
            return maps[-1]
        if len(maps) != self.num_ins:
            raise ValueError(
                f'the backbone makes {len(maps)} maps, but in_channels of the neck names '
                f'{self.num_ins}; out_indices of the backbone says which'
            )
        return self.fusion(torch.cat(tuple(maps), 1))


def _mask(maps: Tensor, cells: Sequence[Size] | None) -> Tensor | None:
    """Returns where maps are padding; None if all of their cells are valid."""
    return None if cells is None else padding_mask(cells, tuple(maps.shape[-2:]), maps.device)


def _max_pool(x: Tensor, kernel: int, mask: Tensor | None, ceil: bool) -> Tensor:
    """Pools by the maximum without padding.

    Windows cut by the border are included if ``ceil``, else left out, unless there is no other.
    """
    x = zero_padding(x, mask, -math.inf)
    if not ceil:
        rows, cols = x.shape[-2:]
        x = F.pad(x, (0, max(0, kernel - cols), 0, max(0, kernel - rows)), value=-math.inf)
    return F.max_pool2d(x, kernel, kernel, ceil_mode=ceil)


def _build_resampler(channels: int, scale: float, eps: float) -> tuple[nn.Module, int]:
    """Returns the layers that enlarge a map by ``scale`` >= 1, and their output channels."""
    layers: list[nn.Module] = []
    for step in range(max(0, int(math.log2(scale)))):
        if step:
            layers += [ChannelLayerNorm(channels, eps=eps), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels //= 2
    return nn.Sequential(*layers), channels
