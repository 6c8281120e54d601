"""mmdet's DINO detector, independent of the padding of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from torch import Tensor, nn

from ..errors import InputError
from ..layers import GridPyramidLayout, PyramidLayout
from ..layers.low_precision import converted_together
from ..layers.out_of_memory import call_in_parts
from ..sample_meta import sample_seeds
from .deformable_attention import DeformableAttention
from .denoising import DenoisingQueryGenerator
from .dino_decoder import PaddingAwareDecoder
from .dino_encoder import PaddingAwareEncoder
from .mask_head import MaskHead
from .mask_supervision import MaskSupervision
from .query_groups import QueryGroup
from .query_selection import Selector, select_queries
from .simple_feature_pyramid import SimpleFeaturePyramid
from .sine_encoding import CellEncoding
from .targets import BoxTargets
from .tiling import Tiling, predict_in_tiles, without_large_images
from .vit import PackedViT, detector_layer_depth

COORDINATES = ('image', 'grid')
# Parts of which this class knows what runs under autocast.
_KNOWN_PARTS = (PackedViT, SimpleFeaturePyramid)


@MODELS.register_module()
class PaddingAwareDINO(DINO):
    """DINO (arXiv:2203.03605) whose predictions do not depend on batch mates.

    Differences from mmdet's ``DINO``:

    - Backbone and neck are given the valid size of each image and keep padding out. Encoder, query
      selection and decoder work on the stream of valid cells (:class:`.layers.PyramidLayout`).
    - All batches are padded to a multiple of the coarsest stride of the pyramid, whatever the data
      preprocessor did.
    - Boxes and reference points are relative to the exact image size on every level, so that a
      point lies at the same place of the image on all levels.
    - Proposals too close to the border never become queries. (mmdet gives them and padding a
      constant score.) Where fewer proposals than ``num_queries`` are left, the other queries start
      from the whole image.
    - Query selection, box refinement and losses run in fp32 under autocast.
    - Without encoder layers, queries are selected on the levels of the neck, and there is no
      embedding of levels.

    The backbone must have ``patch_size`` and ``forward(x, img_shapes, sample_seeds)``, the neck
    ``strides(input_stride)`` and ``forward(x, img_shapes, stride)``, as ``DINOv2`` and
    ``SimpleFeaturePyramid`` do.

    Args:
        backbone: Config of the backbone.
        encoder: Arguments of :class:`.PaddingAwareEncoder`.
        decoder: Arguments of :class:`.PaddingAwareDecoder`.
        bbox_head: Config of the head, a :class:`.BatchedDINOHead`.
        dn_cfg: Arguments of :class:`.DenoisingQueryGenerator`.
        coordinates: What boxes and points are relative to. 'image': the exact image size, as above.
            'grid': the grid of each level, as in detrex and in mmdet for one image without padding,
            for detectors that were trained so (:class:`.layers.GridPyramidLayout`). The neck then
            has ``pooling='floor'``; sampling points lie on the kinks of the interpolation, where
            rounding decides the gradient; and proposals too close to the border may become queries,
            with a feature of zero and a box in the bottom right corner.
        deformable_attention: How encoder and decoder sample the levels: 'auto', 'triton', 'mmcv' or
            'pytorch'; see :func:`.deformable_attention.choose_implementation`.
        compiled: Whether what works on each token alone runs compiled by ``torch.compile``, in
            backbone, encoder, decoder and head (see :mod:`mmdet_dinov2.layers.compiling`). This
            setting and the one above yield to that of a part's own config.
        mask_head: Arguments of :class:`.MaskHead`, whose ``embed_dims`` are those of the encoder:
            detections then have ``masks``, and training samples need them. None for no masks.
        tile: Attributes of a :class:`.tiling.Tiling`: images that are larger than a tile are
            predicted in tiles. The test pipeline has to pass the images on
            (:func:`mmdet_dinov2.config.tiles.use_tiles`).
        num_query_groups: Number of groups of ``num_queries`` queries in training; see
            :class:`.QueryGroup`. Losses are the means over the groups.
        **kwargs: As for mmdet's ``DINO``. ``test_cfg`` may have ``num_queries`` and
            ``num_decoder_layers``; see :meth:`set_test_size`.

    Raises:
        InputError: If there is no such implementation of deformable attention, an attention samples
            a different number of levels than the neck makes, a number of groups, queries or layers
            is out of range, an argument of ``mask_head`` or ``tile`` is unknown or out of range,
            or costs of masks are configured without ``mask_head``.
        ValueError: If backbone or neck lack these, or arguments contradict each other.
    """

    # The training loop knows the boxes of the whole step, so the losses need no other process.
    communicates_in_forward = False
    # Its losses know weights of images, and boxes that may be objects or not.
    weighs_images = True

    def __init__(
        self,
        *,
        backbone: dict,
        encoder: dict,
        decoder: dict,
        bbox_head: dict,
        dn_cfg: dict | None = None,
        coordinates: str = 'image',
        deformable_attention: str = 'auto',
        compiled: bool = False,
        mask_head: Mapping[str, Any] | None = None,
        tile: Mapping[str, Any] | None = None,
        num_query_groups: int = 1,
        **kwargs,
    ) -> None:
        for key in ('as_two_stage', 'with_box_refine'):
            if not kwargs.get(key):
                raise ValueError(f'{type(self).__name__} needs {key}=True, got {kwargs.get(key)!r}')
        if coordinates not in COORDINATES:
            raise ValueError(f'coordinates must be one of {COORDINATES}, got {coordinates!r}')
        if compiled:
            backbone, bbox_head = ({'compiled': True, **part} for part in (backbone, bbox_head))
        _check_number('num_query_groups', num_query_groups)
        switches = dict(deformable_attention=deformable_attention, compiled=compiled)
        # Not the constructor of mmdet's DINO, which would build its own query generator, but the
        # next one. It writes to the config of the head, so that one gets a copy.
        super(DINO, self).__init__(
            backbone=backbone,
            encoder={**switches, **encoder},
            decoder={**switches, **decoder},
            bbox_head=dict(bbox_head),
            **kwargs,
        )
        self.query_groups = nn.ModuleList(
            QueryGroup(self.num_queries, self.embed_dims, self.bbox_head)
            for _ in range(1, num_query_groups)
        )
        self.dn_query_generator = DenoisingQueryGenerator(
            num_classes=self.bbox_head.num_classes,
            embed_dims=self.embed_dims,
            num_matching_queries=self.num_queries,
            **{'compiled': compiled, **(dn_cfg or {})},
        )
        if not hasattr(self.backbone, 'patch_size') or not hasattr(self.neck, 'strides'):
            raise ValueError(
                f'{type(self).__name__} needs a backbone with patch_size and a neck with strides, '
                f'such as DINOv2 and SimpleFeaturePyramid; got {type(self.backbone).__name__} and '
                f'{type(self.neck).__name__}'
            )
        self.strides = self.neck.strides(self.backbone.patch_size)
        self.size_divisor = int(max(self.strides))
        if len(self.strides) != self.num_feature_levels:
            raise ValueError(
                f'the neck makes {len(self.strides)} levels, but '
                f'num_feature_levels={self.num_feature_levels}; set both, and num_levels of the '
                'attention in encoder and decoder, to the same number'
            )
        self._check_levels()
        pooling = getattr(self.neck, 'pooling', 'ceil')
        if (coordinates == 'grid') != (pooling == 'floor'):
            raise ValueError(
                "coordinates='grid' and a neck with pooling='floor' belong together, got "
                f'coordinates={coordinates!r} and pooling={pooling!r}'
            )
        self.coordinates = coordinates
        self.mask_head = None
        if mask_head is not None:
            self.mask_head = MaskHead(**{'embed_dims': self.embed_dims, **mask_head})
            self.bbox_head.names_queries = True
        elif getattr(getattr(self.bbox_head, 'assigner', None), 'compares_masks', False):
            raise InputError(
                'train_cfg.assigner.match_costs compare masks, but the model has no mask_head; set '
                'model.mask_head=dict(), or leave CrossEntropyLossCost and DiceCost out'
            )
        self.tiling = None if tile is None else Tiling.of(tile, self.backbone.patch_size)
        settings = self.test_cfg or {}
        self.set_test_size(settings.get('num_queries'), settings.get('num_decoder_layers'))

    def _init_layers(self) -> None:
        """Builds what lies between neck and head, with the parameter names of mmdet's ``DINO``."""
        # Private: mmdet's constructor calls it, after backbone, neck and head are built.
        self.positional_encoding = CellEncoding(**self.positional_encoding)
        self.encoder = PaddingAwareEncoder(**self.encoder)
        self.decoder = PaddingAwareDecoder(**self.decoder)
        dims = self.embed_dims = self.decoder.embed_dims
        if 2 * self.positional_encoding.num_feats != dims:
            raise ValueError(
                f'positional_encoding.num_feats={self.positional_encoding.num_feats} must be half '
                f'of the {dims} channels of encoder and decoder'
            )
        self.query_embedding = nn.Embedding(self.num_queries, dims)
        if self.encoder.num_layers:
            self.level_embed = nn.Parameter(torch.empty(self.num_feature_levels, dims))
        else:
            # Only the encoder knows the levels apart, and a parameter without a gradient would stop
            # distributed training. mmdet's initialisation asks for the name.
            self.level_embed = torch.empty(0, dims)
        self.memory_trans_fc = nn.Linear(dims, dims)
        self.memory_trans_norm = nn.LayerNorm(dims)

    def _check_levels(self) -> None:
        """Checks that all attention samples the levels of the neck."""
        for key, layers, attention in (
            ('encoder.layer_cfg.self_attn_cfg', self.encoder.layers, 'self_attn'),
            ('decoder.layer_cfg.cross_attn_cfg', self.decoder.layers, 'cross_attn'),
        ):
            for layer in layers:
                num_levels = getattr(layer, attention).num_levels
                if num_levels != len(self.strides):
                    raise InputError(
                        f'{key}.num_levels={num_levels} must be the number of levels that the neck '
                        f'makes, {len(self.strides)}'
                    )

    def init_weights(self) -> None:
        """Initialises all weights, as mmdet's ``DINO``."""
        super().init_weights()
        for group in self.query_groups:
            group.init_weights_like(self.bbox_head)

    def set_test_size(
        self, num_queries: int | None = None, num_decoder_layers: int | None = None
    ) -> None:
        """Sets how much of the decoder predicts; training is not affected.

        Every decoder layer is trained to predict, and queries are the best proposals, so that one
        checkpoint predicts at several speeds.

        Args:
            num_queries: Number of queries, those with the best proposals; None takes all.
            num_decoder_layers: Number of decoder layers, from the first; None takes all.

        Raises:
            InputError: If a number is less than 1 or more than the model has.
        """
        self.test_num_queries = self.num_queries if num_queries is None else num_queries
        self.test_num_layers = (
            self.decoder.num_layers if num_decoder_layers is None else num_decoder_layers
        )
        _check_number('test_cfg.num_queries', self.test_num_queries, self.num_queries)
        _check_number('test_cfg.num_decoder_layers', self.test_num_layers, self.decoder.num_layers)
        # mmdet's top-k fails on more detections than queries x classes.
        most = self.test_num_queries * self.bbox_head.num_classes
        settings = self.test_cfg or {}
        if 'max_per_img' in settings:
            settings = {**settings, 'max_per_img': min(settings['max_per_img'], most)}
        self.bbox_head.test_cfg = settings

    # ------------------------------------------------------------------ batches

    def parse_losses(self, losses: dict) -> tuple[Tensor, dict]:
        """Adds up the losses, as mmengine's method does, in one operation.

        Args:
            losses: Losses by name, each a number.

        Returns:
            The sum of those with 'loss' in their name, and all of them after the sum, by name.
        """
        if not all(isinstance(loss, Tensor) and not loss.dim() for loss in losses.values()):
            return super().parse_losses(losses)  # takes lists and means
        total = torch.stack([loss for name, loss in losses.items() if 'loss' in name]).sum()
        return total, dict(loss=total, **losses)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """Computes the losses of a batch, as mmdet's ``DetectionTransformer.loss``."""
        head_inputs = self._forward_to_head(batch_inputs, batch_data_samples)
        pixels, seeds = head_inputs.pop('pixels'), head_inputs.pop('seeds')
        with torch.autocast(batch_inputs.device.type, enabled=False):
            if pixels is not None:
                head_inputs['masks'] = MaskSupervision(
                    self.mask_head,
                    pixels,
                    self.mask_head.collate(batch_data_samples, seeds, pixels),
                    head_inputs['hidden_states'],
                )
            return self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)

    def val_step(self, data: Any) -> SampleList:
        """Detects objects; see mmengine's ``BaseModel``. With ``tile``, in tiles too."""
        return self.test_step(data)

    def test_step(self, data: Any) -> SampleList:
        """Detects objects; see mmengine's ``BaseModel``. With ``tile``, in tiles too."""
        if self.tiling is None:
            return super().test_step(without_large_images(data))
        return predict_in_tiles(super().test_step, data, self.tiling)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Adds detections to the samples, as mmdet's ``DetectionTransformer.predict``.

        If memory is exhausted, the images are predicted in smaller batches, which changes nothing.
        """
        return call_in_parts(
            lambda part: self._predict(batch_inputs[part], batch_data_samples[part], rescale),
            len(batch_data_samples),
        )

    def _predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool
    ) -> SampleList:
        head_inputs = self._forward_to_head(batch_inputs, batch_data_samples)
        pixels, _ = head_inputs.pop('pixels'), head_inputs.pop('seeds')
        with torch.autocast(batch_inputs.device.type, enabled=False):
            results = self.bbox_head.predict(
                **head_inputs, rescale=rescale, batch_data_samples=batch_data_samples
            )
            if pixels is not None:
                self.mask_head.predict(
                    pixels, head_inputs['hidden_states'][-1], results, batch_data_samples, rescale
                )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None
    ) -> tuple[Tensor, ...]:
        # Private: what mmdet's detectors call in mode 'tensor'.
        head_inputs = self._forward_to_head(batch_inputs, batch_data_samples)
        return self.bbox_head.forward(head_inputs['hidden_states'], head_inputs['references'])

    def _forward_to_head(self, batch_inputs: Tensor, batch_data_samples: OptSampleList) -> dict:
        """Runs everything before the heads.

        Returns:
            The inputs of the head, in fp32; ``pixels``, what the mask head made, or None; and
            ``seeds``, those of the samples in training.
        """
        img_shapes = _img_shapes(batch_inputs, batch_data_samples)
        targets = seeds = None
        if self.training:
            targets = BoxTargets.collate(batch_data_samples)
            seeds = sample_seeds(batch_data_samples)
        with converted_together(self._under_autocast(), batch_inputs.device):
            feats = self.extract_feat(batch_inputs, img_shapes, seeds)
            encoder_inputs, decoder_inputs = self.pre_transformer(feats, img_shapes)
            memory = self.forward_encoder(**encoder_inputs)
            queries, head_inputs = self.pre_decoder(**memory, targets=targets, seeds=seeds)
            head_inputs.update(self.forward_decoder(**decoder_inputs, **queries))
        head_inputs['hidden_states'] = head_inputs['hidden_states'].float()
        pixels = None
        if self.mask_head is not None:
            pixels = self.mask_head(encoder_inputs['feat'], memory['memory'], memory['layout'])
        return {**head_inputs, 'pixels': pixels, 'seeds': seeds}

    def _under_autocast(self) -> Iterator[nn.Module]:
        """Yields modules none of which leaves autocast when it runs."""
        parts = [self.encoder, self.decoder]
        parts += [p for p in (self.backbone, self.neck) if isinstance(p, _KNOWN_PARTS)]
        for part in parts:
            exact = {
                id(layer)
                for module in part.modules()
                if isinstance(module, DeformableAttention)
                for layer in module.exact_layers()
            }
            yield from (module for module in part.modules() if id(module) not in exact)

    def extract_feat(
        self,
        batch_inputs: Tensor,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Computes the pyramid.

        Args:
            batch_inputs: Images, shape (B, 3, H, W).
            img_shapes: Valid height and width of each image in pixels; None takes all pixels as
                valid.
            seeds: Seed of the stochastic depth of each image.

        Returns:
            A map of shape (B, C, H', W') for each level, zero at padding. H' is
            ceil(H / d) * d / stride, where d is the coarsest stride.
        """
        height, width = batch_inputs.shape[-2:]
        if img_shapes is None:
            img_shapes = [(height, width)] * len(batch_inputs)
        divisor = self.size_divisor
        canvas = F.pad(batch_inputs, (0, -width % divisor, 0, -height % divisor))
        maps = self.backbone(canvas, img_shapes=img_shapes, sample_seeds=seeds)
        return self.neck(maps, img_shapes=img_shapes, stride=self.backbone.patch_size)

    # -------------------------------------------------------------- transformer

    def pre_transformer(
        self,
        mlvl_feats: tuple[Tensor, ...],
        img_shapes: Sequence[tuple[int, int]] | None = None,
        layout: PyramidLayout | None = None,
    ) -> tuple[dict, dict]:
        """Collects the valid cells of the pyramid for the encoder.

        Args:
            mlvl_feats: Maps of shape (B, C, H_l, W_l).
            img_shapes: Valid height and width of each image in pixels.
            layout: The layout to use in place of that of ``img_shapes``.

        Returns:
            Keyword arguments of ``forward_encoder``, and part of those of ``forward_decoder``.
        """
        layout = layout or self.layout_of(img_shapes, mlvl_feats[0].device)
        feat_pos = None
        if self.encoder.num_layers:
            positions = self.positional_encoding(layout)
            feat_pos = positions + F.embedding(layout.levels, self.level_embed)
        inputs = dict(feat=layout.pack(mlvl_feats), feat_pos=feat_pos, layout=layout)
        return inputs, dict(layout=layout)

    def layout_of(
        self, img_shapes: Sequence[tuple[int, int]], device: torch.device
    ) -> PyramidLayout:
        """Returns the layout of the pyramids of a batch.

        Args:
            img_shapes: Valid height and width of each image in pixels.
            device: Device of the pyramids.
        """
        if self.coordinates == 'image':
            return PyramidLayout(img_shapes, self.strides, device)
        levels = self.neck.grids(img_shapes, self.backbone.patch_size)
        return GridPyramidLayout(img_shapes, self.strides, device, list(zip(*levels, strict=True)))

    def forward_encoder(self, feat: Tensor, feat_pos: Tensor | None, layout: PyramidLayout) -> dict:
        """Runs the encoder.

        Args:
            feat: Stream of cells, shape (T, C).
            feat_pos: Their positions, shape (T, C); None if there are no layers.
            layout: Where the cells come from.

        Returns:
            Part of the keyword arguments of ``pre_decoder``; the memory has shape (T, C).
        """
        return dict(memory=self.encoder(feat, feat_pos, layout), layout=layout)

    def pre_decoder(
        self,
        memory: Tensor,
        layout: PyramidLayout,
        targets: BoxTargets | None = None,
        seeds: Sequence[int] | None = None,
    ) -> tuple[dict, dict]:
        """Selects the proposals that become queries and adds the denoising queries.

        In training, the denoising queries come first, then one group of queries after the other.

        Args:
            memory: Encoder output, a stream of cells of shape (T, C).
            layout: Where the cells come from.
            targets: Ground truth, needed in training.
            seeds: Seed of the denoising queries of each image, needed in training.

        Returns:
            Part of the keyword arguments of ``forward_decoder`` and of the head, as in mmdet.
        """
        num_queries = self.num_queries if self.training else self.test_num_queries
        last, head = self.decoder.num_layers, self.bbox_head
        first = Selector(
            self.memory_trans_fc,
            self.memory_trans_norm,
            head.cls_branches[last],
            head.reg_branches[last],
        )
        groups = [(first, self.query_embedding)]
        if self.training:
            groups += [(group.selector, group.query_embedding) for group in self.query_groups]
        selectors, embeddings = zip(*groups, strict=True)
        scores, boxes = select_queries(
            selectors, memory, layout, num_queries, in_grid=self.coordinates == 'grid'
        )
        queries = [embedding.weight[:num_queries] for embedding in embeddings]

        query = torch.cat(queries)[None].expand(boxes.shape[0], -1, -1)
        reference_points = boxes.detach()
        dn_mask = None
        head_inputs = {}
        if self.training:
            dn_label_query, dn_bbox_query, dn_mask, dn_meta = self.dn_query_generator(
                targets, seeds
            )
            query = torch.cat((dn_label_query, query), dim=1)
            reference_points = torch.cat((dn_bbox_query, reference_points), dim=1)
            dn_meta['num_query_groups'] = len(groups)
            head_inputs = dict(
                enc_outputs_class=scores, enc_outputs_coord=boxes.sigmoid(), dn_meta=dn_meta
            )
        decoder_inputs = dict(
            query=query,
            memory=memory,
            reference_points=reference_points.sigmoid(),
            dn_mask=dn_mask,
        )
        return decoder_inputs, head_inputs

    def forward_decoder(
        self,
        query: Tensor,
        memory: Tensor,
        reference_points: Tensor,
        layout: PyramidLayout,
        dn_mask: Tensor | None = None,
    ) -> dict:
        """Runs the decoder.

        Args:
            query: Content queries, shape (B, Q, C).
            memory: Encoder output, a stream of cells of shape (T, C).
            reference_points: Boxes (cx, cy, w, h) relative to the image, in [0, 1], (B, Q, 4).
            layout: Where the cells come from.
            dn_mask: True where queries may not attend, shape (M, M) or (B, M, M), for all queries
                but those of further groups.

        Returns:
            Part of the keyword arguments of the head: ``hidden_states`` (layers, B, Q, C) and
            ``references``, the boxes before the first and after each layer.
        """
        states, references = self.decoder(
            query=query,
            value=memory,
            self_attn_mask=dn_mask,
            reference_points=reference_points,
            layout=layout,
            reg_branches=self.bbox_head.reg_branches,
            group_size=self.num_queries if self.training and self.query_groups else None,
            num_layers=None if self.training else self.test_num_layers,
        )
        return dict(hidden_states=states, references=list(references))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Returns the depth of a parameter for layer-wise learning-rate decay.

        Everything after the backbone has the depth of the last layer.

        Args:
            param_name: Name of the parameter, starting with ``prefix``.
            prefix: Prefix of the detector's parameters.

        Returns:
            The depth and the number of depths, as the backbone counts them.
        """
        return detector_layer_depth(self.backbone, param_name, prefix)


def _check_number(key: str, number: object, most: int | None = None) -> None:
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if not is_whole or not 1 <= number <= (most or number):
        limits = 'at least 1' if most is None else f'from 1 to {most}, what the model has'
        raise InputError(f'{key} must be a whole number, {limits}, but is {number!r}')


def _img_shapes(batch_inputs: Tensor, batch_data_samples: OptSampleList) -> list[tuple[int, int]]:
    """Returns the valid height and width of each image in pixels."""
    if batch_data_samples is None:
        return [tuple(batch_inputs.shape[-2:])] * len(batch_inputs)
    return [tuple(sample.img_shape[:2]) for sample in batch_data_samples]
