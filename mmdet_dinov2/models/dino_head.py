"""DINO's head, which computes the losses of all decoder layers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.models.losses import GIoULoss
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import InstanceList, OptInstanceList, reduce_mean
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import InputError
from ..layers import TokenwiseModule, carl_weights, tokenwise
from ..layers.boxes import corners_of, giou_loss, iou_of_pairs
from ..layers.stacked import run_stacked
from ..sample_meta import announced_step
from .classification_losses import as_query_loss
from .denoising import DenoisingLayout
from .mask_supervision import MaskPairs, MaskSupervision
from .matching import BatchedHungarianAssigner, Matches
from .targets import BoxTargets

# A query whose box overlaps one that may be an object or not by this IoU is not background.
_UNSURE_IOU = 0.5


@dataclass(frozen=True)
class QuerySet:
    """Queries of L layers, of which some should predict a box; the others are background.

    Attributes:
        scores: Class logits, shape (L, B, Q, classes).
        boxes: Boxes (cx, cy, w, h) relative to the image, shape (L, B, Q, 4).
        matches: Pairs of queries and boxes, M / L of each layer.
        targets: The boxes, whose weights count in all losses.
        num_boxes: What the sums of losses are divided by.
        weights: Weight of the loss of each query, shape (B, Q); None takes 1.
        background: Further weight of the loss of the background, a shape that broadcasts to
            (L, B, Q); None takes 1.
    """

    scores: Tensor
    boxes: Tensor
    matches: Matches
    targets: BoxTargets
    num_boxes: Tensor
    weights: Tensor | None = None
    background: Tensor | None = None

    def rows(self) -> Tensor:
        """Returns the number of the query of each pair among all L * B * Q, shape (M,)."""
        _, num_images, num_queries = self.scores.shape[:3]
        image = torch.add(self.matches.image, self.matches.layer, alpha=num_images)
        return torch.add(self.matches.query, image, alpha=num_queries)

    def wanted(self) -> tuple[Tensor, ...]:
        """Returns what each pair wants.

        Returns:
            Boxes relative to the image (M, 4), labels (M,), width, height, width, height of the
            image in pixels (M, 4), and the weight of the pair (M,).
        """
        image, target = self.matches.image, self.matches.target
        boxes, labels = self.targets.boxes[image, target], self.targets.labels[image, target]
        if self.weights is None:
            weights = boxes.new_ones(len(boxes))
        else:
            weights = self.weights[image, self.matches.query]
        if self.targets.weights is not None:
            weights = weights * self.targets.weights[image, target]
        return boxes, labels, self.targets.sizes[image], weights


@MODELS.register_module()
class BatchedDINOHead(TokenwiseModule, DINOHead):
    """mmdet's ``DINOHead``, which computes the losses of all layers and images at once.

    The denoising loss of an image is the mean over its own groups (see
    :class:`DenoisingQueryGenerator`); all other terms are those of mmdet.

    Matching waits for the device once per step (see :class:`BatchedHungarianAssigner`); the losses
    do not wait. Losses are divided by the mean number of boxes per micro-batch, over all processes
    and accumulated micro-batches of the step (see :func:`announce_step`). So gradients do not
    depend on how a batch is divided. The focal loss does not need a compiled operator.

    An image with a weight counts with it in all losses, and so do its boxes in the number that the
    losses are divided by. Queries without a box that lie on an unsure box
    (:attr:`.BoxTargets.unsure`) have no classification loss.

    Args:
        *args: As for mmdet's ``DINOHead``.
        reference_eps: How far from 0 and 1 the numbers of a reference box are kept before the
            inverse of the sigmoid is taken: 1e-5 in mmdet, 1e-3 in detrex.
        carl: Arguments ``k`` and ``bias`` of :func:`.layers.carl_weights`, for a further loss
            ``loss_carl``: the L1 loss with these weights, as in mmdet's PISA (there 1 and 0.2).
        compiled: Whether what works on each query, or each matched pair, alone runs compiled.
        **kwargs: As for mmdet's ``DINOHead``; ``train_cfg.assigner`` must be a
            ``BatchedHungarianAssigner``, ``loss_cls`` a ``FocalLoss``, ``IABCELoss`` or ``MALoss``
            of logits.

    Attributes:
        names_queries: Whether detections have ``queries``, the number of the query of each.

    Raises:
        InputError: If the assigner or the classification loss is of a different type, or ``carl``
            has other arguments.
    """

    def __init__(
        self,
        *args,
        reference_eps: float = 1e-5,
        carl: Mapping[str, float] | None = None,
        compiled: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(*args, compiled=compiled, **kwargs)
        self.reference_eps = reference_eps
        self.names_queries = False
        if carl is not None and (
            set(carl) != {'k', 'bias'} or not (carl['k'] >= 0 and 0 < carl['bias'] <= 1)
        ):
            raise InputError(
                'bbox_head.carl must have k of at least 0 and bias above 0 and up to 1, such as '
                f'dict(k=1.0, bias=0.2), but is {dict(carl)!r}'
            )
        self.carl = carl
        if self.train_cfg and not isinstance(self.assigner, BatchedHungarianAssigner):
            raise InputError(
                f'{type(self).__name__} needs train_cfg.assigner of type BatchedHungarianAssigner, '
                f'got {type(self.assigner).__name__}'
            )
        if self.train_cfg:
            self.assigner.compiled = compiled
        self.loss_cls = as_query_loss(self.loss_cls, type(self).__name__)

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        # Private: mmdet's heads call it for each image. Its detections do not say their queries.
        results = super()._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)
        if self.names_queries:
            index = cls_score.sigmoid().view(-1).topk(len(results)).indices
            results.queries = torch.div(index, self.num_classes, rounding_mode='floor')
        return results

    def forward(self, hidden_states: Tensor, references: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predicts classes and boxes after each decoder layer.

        Args:
            hidden_states: Queries after each of L layers, shape (L, B, Q, C).
            references: Boxes (cx, cy, w, h) before each layer, and more that are not used, each of
                shape (B, Q, 4).

        Returns:
            Class logits, shape (L, B, Q, classes), and boxes (cx, cy, w, h) relative to the image,
            shape (L, B, Q, 4).
        """
        num_layers, *batch = hidden_states.shape[:3]
        states = hidden_states.flatten(1, 2)
        scores, offsets = (
            run_stacked(list(branches)[:num_layers], states)
            for branches in (self.cls_branches, self.reg_branches)
        )
        references = torch.stack(tuple(references[:num_layers])).flatten(0, 2)
        boxes = self._refined(offsets.flatten(0, 1), references)
        return scores.unflatten(1, batch), boxes.unflatten(0, (num_layers, *batch))

    @tokenwise
    def _refined(self, offsets: Tensor, references: Tensor) -> Tensor:
        return (offsets + inverse_sigmoid(references, eps=self.reference_eps)).sigmoid()

    def loss(
        self,
        hidden_states: Tensor,
        references: Sequence[Tensor],
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        batch_data_samples: SampleList,
        dn_meta: dict,
        masks: MaskSupervision | None = None,
    ) -> dict[str, Tensor]:
        """Computes the losses of a batch; see :meth:`loss_by_feat` and mmdet's ``DINOHead``.

        Args:
            hidden_states: As for ``forward``.
            references: As for ``forward``.
            enc_outputs_class: Class logits of the proposals, shape (B, Q, classes).
            enc_outputs_coord: Boxes of the proposals, shape (B, Q, 4).
            batch_data_samples: The B samples.
            dn_meta: What :class:`DenoisingQueryGenerator` returned.
            masks: What masks are compared with; None if there are none.
        """
        return self.loss_by_feat(
            *self(hidden_states, references),
            enc_outputs_class,
            enc_outputs_coord,
            batch_gt_instances=[sample.gt_instances for sample in batch_data_samples],
            batch_img_metas=[sample.metainfo for sample in batch_data_samples],
            dn_meta=dn_meta,
            masks=masks,
        )

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor,
        enc_bbox_preds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict,
        batch_gt_instances_ignore: OptInstanceList = None,
        masks: MaskSupervision | None = None,
    ) -> dict[str, Tensor]:
        """Computes the losses of a batch.

        Each of K groups of queries is matched alone, and the losses are the means over the groups.

        Args:
            all_layers_cls_scores: Class logits of L layers for D denoising and K * Q matching
                queries, shape (L, B, D + K * Q, classes).
            all_layers_bbox_preds: Boxes (cx, cy, w, h) relative to the image, shape
                (L, B, D + K * Q, 4).
            enc_cls_scores: Class logits of the proposals, shape (B, K * Q, classes).
            enc_bbox_preds: Boxes of the proposals, shape (B, K * Q, 4).
            batch_gt_instances: Not used: ``dn_meta`` has the boxes, already collated.
            batch_img_metas: Metadata of the B images.
            dn_meta: What :class:`DenoisingQueryGenerator` returned, and ``num_query_groups`` (K).
            batch_gt_instances_ignore: Not used, as in mmdet.
            masks: What masks are compared with; None if there are none.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_iou`` of the last layer, where the head has
            ``carl`` also ``loss_carl``, with ``masks`` also ``loss_mask`` and ``loss_dice``; with
            the prefixes ``d0.``, ``d1.``, ... those of the other layers; with ``enc_`` those of the
            proposals, which have no masks; with ``dn_`` before ``loss`` those of the denoising
            queries.
        """
        num_layers = len(all_layers_cls_scores)
        num_dn_queries = dn_meta['num_denoising_queries']
        targets = dn_meta['targets']
        num_groups = dn_meta.get('num_query_groups', 1)
        caps = [enc_cls_scores.shape[1] // num_groups, dn_meta['max_boxes']]
        num_boxes, num_denoised = _boxes_per_micro_batch(batch_img_metas, targets, caps)

        # The proposals are matched like one more layer before the first, each group of queries
        # like a layer of its own.
        sizes = (num_dn_queries, all_layers_cls_scores.shape[2] - num_dn_queries)
        dn_scores, scores = all_layers_cls_scores.split(sizes, 2)
        dn_boxes, boxes = all_layers_bbox_preds.split(sizes, 2)
        scores = _by_group(torch.cat((enc_cls_scores[None], scores)), num_groups)
        boxes = _by_group(torch.cat((enc_bbox_preds[None], boxes)), num_groups)
        mask_costs = ()
        if masks is not None and self.assigner.compares_masks:
            of_images = masks.match_costs(
                all_layers_bbox_preds, num_dn_queries, self.assigner.mask_cost
            )
            mask_costs = (_by_group(costs, num_groups) for costs in of_images)
        matches = self.assigner.assign_batch(scores, boxes, targets, mask_costs)
        background = _background_weights(boxes, matches, targets)
        dn_matches = _denoising_matches(dn_meta['layout'], num_layers, targets.labels.device)
        dn_weights = dn_meta['layout'].weights().to(targets.labels.device, non_blocking=True)
        losses, dn_losses = self._set_losses(
            (
                QuerySet(scores, boxes, matches, targets, num_boxes, background=background),
                QuerySet(
                    dn_scores,
                    dn_boxes,
                    dn_matches,
                    dn_meta['denoised'],
                    num_denoised,
                    dn_weights,
                    None if background is None else targets.image_weights[:, None],
                ),
            )
        )
        if masks is not None:
            matched = _mask_pairs(
                matches, targets, 1 / num_boxes, num_layers + 1, num_dn_queries, num_groups,
                scores.shape[2],
            )  # fmt: skip
            denoised = _mask_pairs(
                dn_matches, dn_meta['denoised'], dn_weights / num_denoised, num_layers
            )
            of_matched, of_denoised = masks.losses(all_layers_bbox_preds, (matched, denoised))
            losses.update(of_matched)
            dn_losses.update(of_denoised)
        if num_groups > 1:
            losses = {
                name: loss.unflatten(0, (-1, num_groups)).mean(1) for name, loss in losses.items()
            }
        decoder = [f'd{index}.' for index in range(num_layers - 1)] + ['']
        named = {}
        for name, values in losses.items():
            prefixes = ['enc_', *decoder][-len(values) :]  # proposals have no masks
            for prefix, value in zip(prefixes, values, strict=True):
                named[f'{prefix}{name}'] = value
        for name, values in dn_losses.items():
            for prefix, value in zip(decoder, values, strict=True):
                named[f'{prefix}dn_{name}'] = value
        return named

    def _set_losses(self, sets: Sequence[QuerySet]) -> list[dict[str, Tensor]]:
        """Computes the losses of sets of queries, all queries and all pairs at once.

        Args:
            sets: The sets.

        Returns:
            For each set the losses of each layer, shape (L,).
        """
        # All queries of all sets are one stream.
        scores = torch.cat([queries.scores.flatten(0, 2) for queries in sets])
        boxes = torch.cat([queries.boxes.flatten(0, 2) for queries in sets])
        num_queries = [queries.boxes[..., 0].numel() for queries in sets]
        starts = [sum(num_queries[:index]) for index in range(len(sets))]
        rows = torch.cat(
            [queries.rows() + start for queries, start in zip(sets, starts, strict=True)]
        )
        wanted, labels, sizes, weights = map(
            torch.cat, zip(*(queries.wanted() for queries in sets), strict=True)
        )
        # Not `scores[rows, labels]`, whose backward pass sorts the rows.
        index = torch.add(labels, rows, alpha=scores.shape[1])
        logits = scores.flatten().index_select(0, index)
        predicted = boxes.index_select(0, rows)
        # The loss with all classes of all queries as negatives, then the difference at positives.
        negatives = self._negative_losses(scores).split(num_queries)
        num_pairs = [len(queries.matches.query) for queries in sets]
        pairs = self._pair_losses(predicted, wanted, sizes, logits, weights).split(num_pairs)
        losses = []
        for queries, negative, of_pairs, logit in zip(
            sets, negatives, pairs, logits.split(num_pairs), strict=True
        ):
            num_layers, num_images = queries.scores.shape[:2]
            negative = negative.view(queries.scores.shape[:3])
            for factor in (queries.weights, queries.background):
                negative = negative if factor is None else negative * factor
            by_layer = (num_layers, len(of_pairs) // num_layers)
            per_box = of_pairs.view(*by_layer, 3).sum(1) / queries.num_boxes
            loss_cls, loss_bbox, loss_iou = per_box.unbind(1)
            of_negatives = negative.sum((1, 2))
            loss_cls = torch.addcdiv(
                loss_cls, of_negatives, queries.num_boxes, value=self.loss_cls.loss_weight
            )
            of_set = dict(loss_cls=loss_cls, loss_bbox=loss_bbox, loss_iou=loss_iou)
            if self.carl is not None:
                by_score = carl_weights(
                    logit.sigmoid(),
                    torch.add(queries.matches.image, queries.matches.layer, alpha=num_images),
                    num_layers * num_images,
                    **self.carl,
                )
                carl = (by_score * of_pairs[:, 1]).view(by_layer).sum(1)
                of_set['loss_carl'] = carl / queries.num_boxes
            losses.append(of_set)
        return losses

    @tokenwise
    def _negative_losses(self, scores: Tensor) -> Tensor:
        """Computes the classification loss of queries (N, classes) without a box, shape (N,)."""
        return self.loss_cls.negative(scores)

    @tokenwise
    def _pair_losses(
        self, predicted: Tensor, wanted: Tensor, sizes: Tensor, logits: Tensor, weights: Tensor
    ) -> Tensor:
        """Computes the losses of matched pairs.

        Args:
            predicted: Boxes (cx, cy, w, h) relative to the image, shape (M, 4).
            wanted: The boxes that they should be, shape (M, 4).
            sizes: Width, height, width, height of the image in pixels, shape (M, 4).
            logits: Logit of the class of the box, shape (M,).
            weights: Weight of the pair, shape (M,).

        Returns:
            Difference of the classification loss to that of a negative, loss of the box and loss of
            its overlap, shape (M, 3).
        """
        corners, wanted_corners = corners_of(predicted) * sizes, corners_of(wanted) * sizes
        overlaps = None
        if self.loss_cls.takes_overlaps:
            overlaps = iou_of_pairs(corners.detach(), wanted_corners)
        gap = self.loss_cls.loss_weight * self.loss_cls.gap(logits.float(), overlaps)
        if len(predicted):
            loss_bbox = self.loss_bbox(predicted, wanted, reduction_override='none')
            loss_iou = self._overlap_loss(corners, wanted_corners)
        else:  # mmdet's losses return a single zero if there are no pairs
            loss_bbox = loss_iou = predicted
        losses = [loss if loss.dim() == 1 else loss.sum(1) for loss in (gap, loss_bbox, loss_iou)]
        return torch.stack(losses, 1) * weights[:, None]

    def _overlap_loss(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Computes ``loss_iou`` of pairs of boxes (x1, y1, x2, y2) in pixels, shape (M,)."""
        if type(self.loss_iou) is GIoULoss:
            return self.loss_iou.loss_weight * giou_loss(predicted, wanted, self.loss_iou.eps)
        return self.loss_iou(predicted, wanted, reduction_override='none')


def _boxes_per_micro_batch(
    img_metas: list[dict], targets: BoxTargets, caps: list[int | None]
) -> Tensor:
    """Returns the mean number of boxes over the processes and micro-batches of the step.

    A step without boxes counts as if it had one. (mmdet counts at least one box *per process*, so
    that steps with few boxes have smaller losses on more processes.)

    Args:
        img_metas: Metadata of the images.
        targets: Their boxes.
        caps: For each result, the largest number of boxes that one image contributes.

    Returns:
        One mean for each cap.
    """
    device, dtype = targets.boxes.device, targets.boxes.dtype
    step = announced_step(img_metas)
    if step is None:
        counts = torch.tensor(targets.counts, dtype=dtype).to(device, non_blocking=True)[None]
        weights, num_micro_batches = targets.image_weights, 1
    else:
        announced, num_micro_batches = step[0].to(device, dtype, non_blocking=True), step[1]
        counts, weights = announced.unbind(-1)
    capped = [counts if cap is None else counts.clamp(max=cap) for cap in caps]
    if weights is not None:
        capped = [numbers * weights for numbers in capped]
    sums = torch.stack([numbers.sum() for numbers in capped])
    num_processes = get_world_size() if step is None else len(counts)
    means = reduce_mean(sums) if step is None else sums / num_processes
    return (means / num_micro_batches).clamp(min=1.0 / (num_micro_batches * num_processes))


def _background_weights(boxes: Tensor, matches: Matches, targets: BoxTargets) -> Tensor | None:
    """Returns the weight of each query in the loss of the background.

    Args:
        boxes: Boxes (cx, cy, w, h) relative to the image, shape (L, B, Q, 4).
        matches: Queries that have a box.
        targets: Weights and unsure boxes of the images.

    Returns:
        Shape (L, B, Q), 0 for queries on unsure boxes that have no box; None if all are 1.
    """
    if targets.image_weights is None:
        return None
    weights = targets.image_weights[:, None].expand(boxes.shape[:3])
    if targets.unsure is None or not targets.unsure.shape[1]:
        return weights
    sizes = targets.sizes[:, None]
    unsure = (corners_of(targets.unsure) * sizes).expand(len(boxes), -1, -1, -1)
    overlaps = bbox_overlaps(corners_of(boxes.detach().float()) * sizes, unsure)
    ignored = overlaps.amax(-1) >= _UNSURE_IOU
    ignored[matches.layer, matches.image, matches.query] = False
    return weights.masked_fill(ignored, 0.0)


def _denoising_matches(layout: DenoisingLayout, num_layers: int, device: torch.device) -> Matches:
    """Pairs the positive denoising queries with the boxes that they were made from."""
    image, query, target = layout.positives()
    layer = torch.arange(num_layers).repeat_interleave(len(image))
    pairs = torch.stack((layer, *(t.repeat(num_layers) for t in (image, query, target))))
    counts = torch.bincount(image, minlength=len(layout.groups)).tolist()
    return Matches(*pairs.to(device, non_blocking=True), tuple(counts))


def _by_group(values: Tensor, num_groups: int) -> Tensor:
    """Makes a layer of each group of queries: (L, B, K * Q, ...) becomes (L * K, B, Q, ...)."""
    return values.unflatten(2, (num_groups, -1)).movedim(2, 1).flatten(0, 1)


def _mask_pairs(
    matches: Matches,
    targets: BoxTargets,
    weights: Tensor,
    num_layers: int,
    num_dn_queries: int | None = None,
    num_groups: int = 1,
    group_size: int = 0,
) -> MaskPairs:
    """Returns the pairs of queries and masks that belong to pairs of queries and boxes.

    Args:
        matches: Pairs of queries and boxes.
        targets: The boxes.
        weights: Weight of each query, shape (B, queries), or of all, shape ().
        num_layers: Number of layers of the matches.
        num_dn_queries: Number of queries before those of the matches, whose first layer are
            proposals; None for pairs of denoising queries.
        num_groups: Number of groups of each layer, which are layers of the matches.
        group_size: Number of queries of a group.
    """
    target = matches.target
    weights = (
        weights[matches.image, matches.query] if weights.dim() else weights.expand(len(target))
    )
    if targets.weights is not None:
        weights = weights * targets.weights[matches.image, target]
    if targets.chosen is not None:
        target = targets.chosen[matches.image, target]
    values = matches.layer, matches.query, target, weights
    rows = num_layers * num_groups
    layer, query, target, weight = (v.reshape(rows, sum(matches.counts)) for v in values)
    if num_dn_queries is not None:
        layer, query, target, weight = (v[num_groups:] for v in (layer, query, target, weight))
        query = query + num_dn_queries + layer % num_groups * group_size
        layer = torch.div(layer, num_groups, rounding_mode='floor') - 1
    return MaskPairs(layer, query, target, weight, matches.counts)
