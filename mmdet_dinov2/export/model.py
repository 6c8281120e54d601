"""The detector as a function of normalised images of one size, which an exporter can trace."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from mmdet.models.layers.transformer.utils import inverse_sigmoid
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from torch import Tensor, nn

from ..errors import InputError
from ..layers import TokenwiseModule, valid_cells
from ..layers.one_size import (
    OneSizeGridPyramidLayout,
    OneSizePyramidLayout,
    OneSizeTokenLayout,
)
from ..models import PaddingAwareDINO
from ..models.deformable_attention import GATHER, DeformableAttention
from ..models.mask_queries import PixelEmbedding, cell_centers
from .stages import recorded_stages


class ExportModel(nn.Module):
    """A detector for batches of images of one size, all of whose pixels are valid.

    All layers are those of the detector, with its parameters; they work on layouts for which the
    number of images, height and width may be symbols (:mod:`mmdet_dinov2.layers.one_size`).

    Args:
        detector: The detector. It is put into evaluation mode, in fp32 and without gradients.

    Attributes:
        mask_stride: Pixels of the input along the side of a cell of the masks; None without masks.
        with_stages: Whether ``forward`` also returns what :func:`.stages.recorded_stages` records.
        stage_names: Names of these, from the last call.

    Raises:
        InputError: If the detector is not a ``PaddingAwareDINO``, or has masks on grids that its
            images do not fill.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = _copy_with_gathers(prepare(detector))
        head = self.detector.bbox_head
        most = self.detector.test_num_queries * head.num_classes
        self.num_detections = (head.test_cfg or {}).get(
            'max_per_img', self.detector.test_num_queries
        )
        self.num_detections = min(self.num_detections, most)
        mask_head = self.detector.mask_head
        self.mask_stride = None
        if mask_head is not None:
            self.mask_stride = float(self.detector.strides[0] / 2**mask_head.num_upsamples)
        self.with_stages = False
        self.stage_names: tuple[str, ...] = ()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detects objects.

        Args:
            image: Normalised images, shape (B, 3, H, W).

        Returns:
            Boxes (x1, y1, x2, y2) in pixels of the input, shape (B, N, 4); scores, shape (B, N),
            highest first; labels, shape (B, N), int64; with a mask head, the logits of masks in
            cells of ``mask_stride`` pixels, shape (B, N, rows, columns). The stages follow, if they
            are asked for.
        """
        detector, size = self.detector, tuple(image.shape[2:])
        recording = recorded_stages(detector) if self.with_stages else nullcontext({})
        with recording as stages:
            layout = self._layout(image, size)
            pyramid = detector.neck(self._features(image), grid=layout.grid)
            encoder_inputs, decoder_inputs = detector.pre_transformer(pyramid, layout=layout)
            memory = detector.forward_encoder(**encoder_inputs)
            queries, _ = detector.pre_decoder(**memory)
            found = detector.forward_decoder(**decoder_inputs, **queries)
            stages.update(ranking=layout.ranking, order=layout.chosen)
            *detections, query = self._detections(**found, size=size)
            if detector.mask_head is not None:
                pixels = detector.mask_head(encoder_inputs['feat'], memory['memory'], layout)
                states = found['hidden_states'][-1]
                states = states.gather(1, query.expand(-1, -1, states.shape[-1]))
                detections.append(self._mask_logits(pixels, states, detections[0], size))
        if not self.with_stages:
            return tuple(detections)
        self.stage_names = tuple(stages)
        return *detections, *stages.values()

    def _features(self, image: Tensor) -> list[Tensor]:
        """Returns the maps of the backbone, each of shape (B, C, rows, cols)."""
        backbone = self.detector.backbone
        (grid,) = valid_cells([image.shape[2:]], backbone.patch_size)
        layout = OneSizeTokenLayout(
            image.shape[0], grid, 1 + backbone.num_registers, backbone.window_size
        )
        right, down = (
            cells * backbone.patch_size - pixels
            for cells, pixels in zip(grid[::-1], (image.shape[3], image.shape[2]), strict=True)
        )
        # A convolution, for which exporters and runtimes need not know the number of patches.
        projection = backbone.patch_embed.proj
        patches = F.conv2d(
            F.pad(image, (0, right, 0, down)),
            projection.weight,
            projection.bias,
            stride=backbone.patch_size,
        )
        patches = backbone.with_positions(patches.flatten(2).transpose(1, 2), grid)
        prefix = backbone.prefix_tokens()
        stream = torch.cat((prefix.expand(image.shape[0], -1, -1), patches), 1).flatten(0, 1)
        streams = backbone.run_blocks(stream, layout)
        return [backbone.to_maps(streams[i], layout, grid) for i in backbone.out_indices]

    def _layout(self, image: Tensor, size: tuple[int, int]) -> OneSizePyramidLayout:
        detector = self.detector
        grids = detector.neck.grids([size], detector.backbone.patch_size)
        kind = _GridLayout if detector.coordinates == 'grid' else _Layout
        return kind(
            image.shape[0],
            size,
            [of_level[0] for of_level in grids],
            detector.strides,
            image.device,
        )

    def _detections(
        self, hidden_states: Tensor, references: list[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decodes what the last decoder layer found, as mmdet's ``DETRHead`` does.

        Returns:
            Boxes, scores, labels, and the number of the query of each, (B, N, 1).
        """
        head, last = self.detector.bbox_head, self.detector.test_num_layers - 1
        states = hidden_states[-1]
        # Not the last reference, which comes from the state before the norm.
        reference = inverse_sigmoid(references[last], eps=head.reference_eps)
        boxes = (head.reg_branches[last](states) + reference).sigmoid()
        scores = head.cls_branches[last](states).sigmoid().flatten(1)
        scores, index = scores.topk(self.num_detections, dim=1)
        labels = index % head.num_classes
        query = torch.div(index, head.num_classes, rounding_mode='floor')[..., None]
        boxes = bbox_cxcywh_to_xyxy(boxes).gather(1, query.expand(-1, -1, 4))
        height, width = size
        x, y = boxes[..., 0::2] * width, boxes[..., 1::2] * height
        x, y = x.clamp(0, width), y.clamp(0, height)
        return torch.stack((x, y), -1).flatten(2), scores, labels, query

    def _mask_logits(
        self, pixels: PixelEmbedding, states: Tensor, boxes: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Returns the logits of the masks of queries (B, N, C) with boxes in pixels (B, N, 4)."""
        height, width = size
        boxes = torch.stack((boxes[..., 0::2] / width, boxes[..., 1::2] / height), -1).flatten(2)
        queries = self.detector.mask_head.queries(
            states.flatten(0, 1), bbox_xyxy_to_cxcywh(boxes).flatten(0, 1)
        )
        ((batch, grid),) = pixels.runs
        embedding = pixels.stream.unflatten(0, (batch, grid[0] * grid[1]))
        logits = queries.vectors.unflatten(0, states.shape[:2]) @ embedding.transpose(1, 2)
        of_place = queries.of_place(cell_centers(grid, pixels.extents[0]))
        return (logits + of_place.unflatten(0, states.shape[:2])).unflatten(2, grid)


class _Noted:
    """Notes which cells were chosen."""

    def best(self, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        self.ranking, self.chosen = super().best(scores, count)
        return self.ranking, self.chosen


class _Layout(_Noted, OneSizePyramidLayout):
    pass


class _GridLayout(_Noted, OneSizeGridPyramidLayout):
    pass


def prepare(detector: nn.Module) -> PaddingAwareDINO:
    """Puts a detector into the form that is exported: evaluation mode, fp32, without gradients.

    Raises:
        InputError: If it is not a ``PaddingAwareDINO``, or has masks on grids that its images do
            not fill.
    """
    if not isinstance(detector, PaddingAwareDINO):
        raise InputError(
            'only detectors of type PaddingAwareDINO can be exported, not '
            f'{type(detector).__name__}'
        )
    if detector.mask_head is not None and detector.coordinates == 'grid':
        raise InputError(
            "masks are exported with coordinates='image' only, but the model has "
            "coordinates='grid'; export it without masks (model.mask_head=None)"
        )
    detector.eval().requires_grad_(False)
    detector.backbone.release_frozen()
    detector.backbone.frozen_in_bf16 = False
    for module in detector.modules():
        if isinstance(module, TokenwiseModule):
            module.compiled = False
    return detector


def _copy_with_gathers(detector: PaddingAwareDINO) -> PaddingAwareDINO:
    """Copies modules but not parameters; attention of the copy takes rows by number."""
    shared = {id(tensor): tensor for tensor in (*detector.parameters(), *detector.buffers())}
    detector = copy.deepcopy(detector, shared)
    for module in detector.modules():
        if isinstance(module, DeformableAttention):
            module.implementation = GATHER
    return detector
