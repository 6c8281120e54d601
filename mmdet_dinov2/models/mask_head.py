"""Masks of the queries of a DINO detector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmdet.models.layers.transformer.utils import MLP
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import InstanceList
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import InputError
from ..layers import PyramidLayout, deformable_attention
from ..layers.padding import Size
from .deformable_attention import choose_implementation
from .mask_losses import MaskLosses
from .mask_prediction import predict_masks
from .mask_queries import NUM_TERMS, MaskQueries, PixelEmbedding, cell_centers
from .mask_targets import MaskTargets

# RF-DETR's number of cells for each point.
_CELLS_PER_POINT = 16
# Smallest side of a box, relative to the image, that places are relative to.
_MIN_SIDE = 1e-4


class MaskHead(BaseModule):
    """Masks as products of queries with an embedding of pixels.

    The logit of a query at a pixel is the product of a vector, an MLP of the query, with the
    embedding of the pixel (Mask DINO, arXiv:2206.02777), plus a polynomial of second order in the
    place of the pixel relative to the box of the query, whose coefficients are also an MLP of the
    query. The polynomial tells objects apart that look the same, for which CondInst
    (arXiv:2003.05664) adds relative coordinates to its maps. Masks do not move boxes.

    The embedding is made from the finest level, that of the neck plus that of the encoder. As in
    the mask decoder of SAM (arXiv:2304.02643), each cell is divided into 2 x 2, ``num_upsamples``
    times, which needs no neighbours; then follows a residual block with a depth-wise convolution,
    as in RF-DETR's segmentation. All but this convolution works on the stream of valid cells.

    Losses are cross-entropy and dice at points that are chosen as in PointRend (arXiv:1912.08193),
    for the matched and denoising queries of all decoder layers. The candidates of an image are
    drawn from the seed of its sample and shared by all of its masks, so that the embedding is read
    at them once.

    Args:
        embed_dims: Channels of queries, neck and encoder.
        mask_dims: Channels of the embedding of pixels.
        num_upsamples: How often the side of the finest cells is halved. Masks should have a quarter
            of the resolution of the image: 1 for a finest stride of 8.
        num_points: Number of points of each mask in the losses, and of each image in the costs of
            matching. None takes 1/16 of the number of cells of the image, as in RF-DETR.
            (Mask2Former and Mask DINO: 12544.)
        oversample_ratio: Number of candidates for each point that is chosen for its uncertainty, at
            least 1.
        importance_sample_ratio: Share of points that are chosen so, 0 to 1; the others are random.
        loss_mask: Config of the loss of each point, a ``CrossEntropyLoss``.
        loss_dice: Config of the loss of each mask, a ``DiceLoss``.
        init_cfg: Initialisation config.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        mask_dims: int = 64,
        num_upsamples: int = 1,
        num_points: int | None = None,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        loss_mask: dict | None = None,
        loss_dice: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check(
            mask_dims=(mask_dims, mask_dims >= 1, 'at least 1'),
            num_upsamples=(num_upsamples, num_upsamples >= 0, 'at least 0'),
            num_points=(num_points, num_points is None or num_points >= 1, 'None or at least 1'),
            oversample_ratio=(oversample_ratio, oversample_ratio >= 1, 'at least 1'),
            importance_sample_ratio=(
                importance_sample_ratio, 0 <= importance_sample_ratio <= 1, 'from 0 to 1',
            ),
        )  # fmt: skip
        self.num_upsamples = num_upsamples
        self.num_points = num_points
        self.losses = MaskLosses(oversample_ratio, importance_sample_ratio, loss_mask, loss_dice)
        self.mask_dims = mask_dims
        self.neck_proj = nn.Linear(embed_dims, embed_dims)
        self.norms, self.expansions = nn.ModuleList(), nn.ModuleList()
        parts = 4 if num_upsamples else 1
        for index in range(max(1, num_upsamples)):
            dims = mask_dims if index else embed_dims
            self.norms.append(nn.LayerNorm(dims))
            self.expansions.append(nn.Linear(dims, parts * mask_dims))
        self.depthwise = nn.Conv2d(mask_dims, mask_dims, 3, padding=1, groups=mask_dims)
        self.pointwise = nn.Sequential(
            nn.LayerNorm(mask_dims), nn.Linear(mask_dims, mask_dims), nn.GELU()
        )
        self.query_embed = MLP(embed_dims, embed_dims, mask_dims + NUM_TERMS, 3)

    def forward(self, feat: Tensor, memory: Tensor, layout: PyramidLayout) -> PixelEmbedding:
        """Embeds the pixels of a batch.

        Args:
            feat: Cells of the levels of the neck, shape (T, C).
            memory: Those of the encoder, shape (T, C).
            layout: Where the cells come from.
        """
        cells = self.neck_proj(layout.finest(feat)) + layout.finest(memory)
        for index, (norm, expand) in enumerate(zip(self.norms, self.expansions, strict=True)):
            cells = norm(cells)
            cells = expand(F.gelu(cells) if index else cells)
            if self.num_upsamples:
                cells = cells.unflatten(-1, (4, self.mask_dims))
        cells = self._in_rows(cells, layout.runs)
        scale = 2**self.num_upsamples
        runs = [(count, (rows * scale, cols * scale)) for count, (rows, cols) in layout.runs]
        cells = cells + self.pointwise(self._convolve(cells, runs))
        return PixelEmbedding(cells.float(), runs, layout.extents[:, 0])

    def _in_rows(self, cells: Tensor, runs: Sequence[tuple[int, Size]]) -> Tensor:
        """Puts parts of cells, (T, 4, ..., 4, D), in rows of the finer grids, (T * 4 * ..., D)."""
        depth = self.num_upsamples
        if not depth:
            return cells
        for axis in range(depth):
            cells = cells.unflatten(1 + 2 * axis, (2, 2))
        # image, rows, cols, down, right, ..., D -> image, rows, down, ..., cols, right, ..., D
        down, right = range(3, 3 + 2 * depth, 2), range(4, 4 + 2 * depth, 2)
        order = [0, 1, *down, 2, *right, 3 + 2 * depth]
        return torch.cat(
            [maps.permute(order).reshape(-1, maps.shape[-1]) for maps in _maps(cells, runs)]
        )

    def _convolve(self, cells: Tensor, runs: Sequence[tuple[int, Size]]) -> Tensor:
        """Applies the depth-wise convolution to the images of a stream (T, D)."""
        outs = [self.depthwise(maps.permute(0, 3, 1, 2)) for maps in _maps(cells, runs)]
        return torch.cat([maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in outs])

    def queries(self, states: Tensor, boxes: Tensor) -> MaskQueries:
        """Returns what predicts the masks of queries.

        Args:
            states: Queries after a decoder layer, shape (N, C).
            boxes: Boxes (cx, cy, w, h) after that layer, relative to the image, shape (N, 4). The
                part inside of the image counts.
        """
        vectors, terms = self.query_embed(states).split([self.mask_dims, NUM_TERMS], -1)
        inside = bbox_xyxy_to_cxcywh(bbox_cxcywh_to_xyxy(boxes.detach()).clamp(0, 1))
        center, side = inside.split(2, -1)
        return MaskQueries(vectors, terms, torch.cat((center, side.clamp(min=_MIN_SIDE)), -1))

    def collate(
        self, batch_data_samples: SampleList, seeds: Sequence[int], pixels: PixelEmbedding
    ) -> MaskTargets:
        """Draws the points of a batch and reads the true masks there.

        Args:
            batch_data_samples: See :meth:`.MaskTargets.collate`.
            seeds: Seed of each sample.
            pixels: What ``forward`` returned.
        """
        counts = [self.losses.num_candidates(self.num_points_of(grid)) for grid in pixels.grids]
        return MaskTargets.collate(batch_data_samples, seeds, counts, pixels.stream.device)

    def num_points_of(self, grid: Size) -> int:
        """Returns the number of points of a mask of an image of so many rows and columns."""
        rows, cols = grid
        return self.num_points or max(1, rows * cols // _CELLS_PER_POINT)

    def sample(self, pixels: PixelEmbedding, points: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Interpolates the embedding at points; beyond the centres of the border it is constant.

        Args:
            pixels: What ``forward`` returned.
            points: Points (x, y) of each image, relative to it, shape (K, 2).

        Returns:
            For each image, shape (K, D).
        """
        device = pixels.stream.device
        counts = [len(of_image) for of_image in points]
        images = torch.repeat_interleave(
            torch.arange(len(counts), device=device),
            torch.tensor(counts).to(device, non_blocking=True),
            output_size=sum(counts),
        )
        shapes = torch.tensor(pixels.grids).to(device, non_blocking=True)
        half = (0.5 / shapes.flip(1))[images]
        locations = torch.cat(list(points)) * pixels.extents[images]
        locations = locations.maximum(half).minimum(1 - half)
        chosen = choose_implementation(device).name
        sampled = deformable_attention(
            pixels.stream[:, None],
            shapes[:, None],
            locations[:, None, None, None],
            locations.new_ones(len(images), 1, 1, 1),
            # mmcv's operator takes one size at a time.
            'pytorch' if chosen == 'mmcv' else chosen,
            images,
        )
        return sampled.split(counts)

    @torch.no_grad()
    def predict(
        self,
        pixels: PixelEmbedding,
        states: Tensor,
        results: InstanceList,
        batch_data_samples: SampleList,
        rescale: bool,
    ) -> None:
        """Adds ``masks`` to detections, in COCO's run-length encoding.

        Args:
            pixels: What ``forward`` returned.
            states: Queries after the last decoder layer, shape (B, Q, C).
            results: Detections of each image, with ``bboxes`` in pixels and ``queries``, the number
                of the query of each, which is taken out.
            batch_data_samples: The samples.
            rescale: Whether boxes and masks have the size of the picture, ``ori_shape``, instead of
                that of the image that the model saw.
        """
        cells = zip(pixels.of_images(), pixels.grids, pixels.extents, strict=True)
        for image, (embedding, grid, extent) in enumerate(cells):
            found, sample = results[image], batch_data_samples[image]
            height, width = sample.img_shape[:2]
            sides = found.bboxes.new_tensor([width, height])
            size = sample.img_shape[:2]
            if rescale:
                size = sample.ori_shape[:2]
                sides = sides / sides.new_tensor(sample.scale_factor)
            corners = found.bboxes / sides.repeat(2)
            queries = self.queries(
                states[image, found.pop('queries')], bbox_xyxy_to_cxcywh(corners)
            )
            centers = cell_centers(grid, extent)
            logits = partial(_logits, queries, embedding.T, centers, grid)
            found.masks = predict_masks(logits, grid, sides / extent, found.bboxes, size)


def _logits(
    queries: MaskQueries, embedding: Tensor, centers: Tensor, grid: Size, index: Tensor
) -> Tensor:
    """Returns the logits (n, rows, columns) of some queries."""
    part = queries.take(index)
    return (part.vectors @ embedding + part.of_place(centers)).unflatten(1, grid)


def _maps(stream: Tensor, runs: Sequence[tuple[int, Size]]) -> list[Tensor]:
    """Divides a stream (T, ...) into the maps of each run, (images, rows, columns, ...)."""
    if len(runs) == 1:  # of images as many as the stream has, which need not be a known number
        parts = [stream]
    else:
        parts = stream.split([count * rows * cols for count, (rows, cols) in runs])
    return [part.unflatten(0, (count, *grid)) for part, (count, grid) in zip(parts, runs)]


def _check(**arguments: tuple[object, bool, str]) -> None:
    for name, (value, is_valid, wanted) in arguments.items():
        if not is_valid:
            raise InputError(f'mask_head.{name} must be {wanted}, but is {value!r}')
