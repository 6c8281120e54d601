"""Hungarian matching of all decoder layers and images of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import HungarianAssigner
from mmdet.models.task_modules.assigners.match_cost import (
    BaseMatchCost,
    BBoxL1Cost,
    CrossEntropyLossCost,
    DiceCost,
    FocalLossCost,
    IoUCost,
)
from mmdet.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import InputError
from ..layers import focal_gap, tokenwise
from ..layers.boxes import corners_of
from .targets import BoxTargets

# Areas in pixels are at least this, so that nothing is divided by 0; mmdet's value.
_MIN_AREA = 1e-6
# Added to probabilities of which the logarithm is taken.
_TINY = 1e-8
# Non-finite costs become this: never chosen while anything else is left.
_WORST_COST = 1e6
# Costs computed at once: 2**26 numbers of 4 bytes, plus a few intermediate results of that size.
_MAX_COSTS_AT_ONCE = 2**26
# On a CPU, where intermediate results should stay in the cache: 1 MiB.
_MAX_COSTS_IN_CACHE = 2**18


@dataclass(frozen=True)
class Matches:
    """Matched pairs of queries and boxes, sorted by layer and image.

    Attributes:
        layer: Index of the decoder layer, shape (M,).
        image: Index of the image, shape (M,).
        query: Index of the query, shape (M,).
        target: Index of the box within its image, shape (M,).
        counts: Number of pairs of each image, the same in all layers.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    counts: tuple[int, ...]


class Pairs(NamedTuple):
    """Pairs of a query and a box. All tensors broadcast to one shape, that of the costs.

    Attributes:
        logits: Logit of the class of the box.
        predicted: The four numbers of the query's box (cx, cy, w, h), relative to the image.
        wanted: Those of the box.
        predicted_corners: Those of the query's box (x1, y1, x2, y2), in pixels.
        wanted_corners: Those of the box.
    """

    logits: Tensor
    predicted: Sequence[Tensor]
    wanted: Sequence[Tensor]
    predicted_corners: Sequence[Tensor]
    wanted_corners: Sequence[Tensor]


@TASK_UTILS.register_module()
class PositionModulatedCost(FocalLossCost):
    """Class cost that grows where boxes are far apart (Stable-DINO, arXiv:2304.04742, section 3.2).

    mmdet's ``FocalLossCost`` with the probability multiplied by ``((1 + GIoU) / 2) ** beta``: a
    query with a high score far from a box does not take it from one that lies on it.

    Only :class:`BatchedHungarianAssigner` computes it.

    Args:
        beta: Exponent of the overlap, at least 0; 0 gives ``FocalLossCost``.
        **kwargs: As for mmdet's ``FocalLossCost``.

    Raises:
        InputError: If ``beta`` is negative.
    """

    def __init__(self, beta: float = 0.5, **kwargs) -> None:
        super().__init__(**kwargs)
        if not beta >= 0:
            raise InputError(f'beta of PositionModulatedCost must be at least 0, but is {beta!r}')
        self.beta = beta


@TASK_UTILS.register_module()
class BatchedHungarianAssigner(HungarianAssigner):
    """mmdet's ``HungarianAssigner`` for all decoder layers and images together.

    The assignments are the same. The costs are computed in a few operations and copied to the CPU
    in one transfer instead of one per layer and image. Non-finite costs are replaced with a very
    large one and counted in ``num_nonfinite``.

    Args:
        match_costs: One or several of ``FocalLossCost``, :class:`PositionModulatedCost`,
            ``BBoxL1Cost`` with ``box_format='xywh'`` and ``IoUCost`` with ``iou_mode`` 'iou' or
            'giou'. For masks also ``CrossEntropyLossCost`` with ``use_sigmoid=True`` and
            ``DiceCost`` with ``pred_act=True``.

    Attributes:
        compares_masks: Whether one of them is for masks.
        compiled: Whether the costs of boxes are computed by compiled code.

    Raises:
        InputError: If a different cost is configured.
    """

    def __init__(self, match_costs: dict | list[dict]) -> None:
        super().__init__(match_costs)
        self.compiled = False
        self.num_nonfinite = 0
        for cost in self.match_costs:
            if type(cost) not in {**_COSTS, **_MASK_COSTS} or not _is_supported(cost):
                raise InputError(
                    f'{type(self).__name__} supports FocalLossCost and PositionModulatedCost (of '
                    "labels), BBoxL1Cost with box_format='xywh' and IoUCost of 'iou' or 'giou', "
                    'for masks also CrossEntropyLossCost with use_sigmoid=True and DiceCost with '
                    'pred_act=True, '
                    f'but match_costs has {_describe(cost)}'
                )
        self._mask_costs = [cost for cost in self.match_costs if type(cost) in _MASK_COSTS]
        self.match_costs = [cost for cost in self.match_costs if type(cost) in _COSTS]
        self.compares_masks = bool(self._mask_costs)
        if not self.match_costs:
            raise InputError(
                'match_costs has costs of masks only, but boxes without a mask are matched, too; '
                'add costs of classes and boxes'
            )

    def mask_cost(self, logits: Tensor, inside: Tensor) -> Tensor:
        """Adds up the costs of masks.

        Args:
            logits: Logits of N masks at points, shape (N, points).
            inside: Whether T true masks cover the points, 0 or 1, shape (T, points).

        Returns:
            Shape (T, N).
        """
        costs = (_MASK_COSTS[type(cost)](cost, logits, inside) for cost in self._mask_costs)
        return reduce(Tensor.add_, costs)

    @torch.no_grad()
    def assign_batch(
        self,
        scores: Tensor,
        boxes: Tensor,
        targets: BoxTargets,
        mask_costs: Iterable[Tensor] = (),
    ) -> Matches:
        """Matches every box with one query, independently in each layer.

        Args:
            scores: Class logits, shape (L, B, Q, classes).
            boxes: Boxes (cx, cy, w, h) relative to the image, shape (L, B, Q, 4).
            targets: Ground truth of the B images.
            mask_costs: Further costs of each image in its last layers, shape (layers, boxes, Q).

        Returns:
            min(Q, boxes of the image) pairs for each layer and image.
        """
        device = scores.device
        num_layers, num_images, num_queries = scores.shape[:3]
        if not max(targets.counts):
            nothing = torch.empty(4, 0, dtype=torch.long, device=device)
            return Matches(*nothing, (0,) * num_images)
        numbers_per_layer = num_images * num_queries * targets.labels.shape[1]
        limit = _MAX_COSTS_AT_ONCE
        if device.type == 'cpu':
            limit = min(limit, _MAX_COSTS_IN_CACHE)
        layers_at_once = max(1, limit // numbers_per_layer)
        costs = torch.cat(
            [
                self._costs(*part, targets)
                for part in zip(
                    scores.float().split(layers_at_once),
                    boxes.float().split(layers_at_once),
                    strict=True,
                )
            ]
        )
        for image, further in enumerate(mask_costs):
            costs[-len(further) :, image, : further.shape[1]] += further
        costs = costs.cpu().numpy()  # the only transfer
        pairs = []
        for layer in range(num_layers):
            for image, count in enumerate(targets.counts):
                target, query = linear_sum_assignment(self._finite(costs[layer, image, :count]))
                place = np.full_like(query, layer), np.full_like(query, image)
                pairs.append(np.stack((*place, query, target)))
        counts = tuple(pair.shape[1] for pair in pairs[:num_images])
        matches = torch.from_numpy(np.concatenate(pairs, axis=1))
        return Matches(*matches.to(device, non_blocking=True), counts)

    def _costs(self, scores: Tensor, boxes: Tensor, targets: BoxTargets) -> Tensor:
        """Adds up the costs, shape (L, B, T, Q): scipy works on the shorter side first."""
        device = scores.device
        num_layers, num_images, num_queries = boxes.shape[:3]
        num_boxes = targets.labels.shape[1]
        if self.compiled:
            shape = (num_layers, num_images, num_boxes, num_queries)
            query = torch.arange(boxes[..., 0].numel(), device=device)
            box = torch.arange(targets.labels.numel(), device=device)
            costs = self._costs_of_pairs(
                query.view(num_layers, num_images, 1, num_queries).expand(shape).flatten(),
                box.view(num_images, num_boxes, 1).expand(shape).flatten(),
                scores.flatten(0, 2),
                boxes.flatten(0, 2),
                targets.labels.flatten(),
                targets.boxes.flatten(0, 1),
                targets.sizes.repeat_interleave(num_boxes, 0, output_size=len(box)),
            )
            return costs.view(shape)
        image, sizes = torch.arange(num_images, device=device)[:, None], targets.sizes[:, None]
        pairs = Pairs(
            scores.mT[:, image, targets.labels],
            *_coordinates(boxes, targets.boxes),
            *_coordinates(corners_of(boxes) * sizes, corners_of(targets.boxes) * sizes),
        )
        return self._added_up(pairs)

    @tokenwise
    def _costs_of_pairs(
        self,
        query: Tensor,
        box: Tensor,
        scores: Tensor,
        boxes: Tensor,
        labels: Tensor,
        wanted: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        """Adds up the costs of pairs, shape (P,).

        Args:
            query: Number of the query of each pair, shape (P,).
            box: Number of the box, shape (P,).
            scores: Class logits of the queries, shape (N, classes).
            boxes: Boxes (cx, cy, w, h) of the queries relative to the image, shape (N, 4).
            labels: Class of each box, shape (M,).
            wanted: The boxes, shape (M, 4).
            sizes: Width, height, width, height of their images in pixels, shape (M, 4).
        """
        predicted, wanted, sizes = boxes[query], wanted[box], sizes[box]
        corners = (corners_of(b) * sizes for b in (predicted, wanted))
        numbers = (b.unbind(1) for b in (predicted, wanted, *corners))
        return self._added_up(Pairs(scores[query, labels[box]], *numbers))

    def _added_up(self, pairs: Pairs) -> Tensor:
        costs = (_COSTS[type(cost)](cost, pairs) for cost in self.match_costs)
        return reduce(Tensor.add_, costs)

    def _finite(self, costs: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(costs)
        if not bad.any():
            return costs
        self.num_nonfinite += int(bad.sum())
        return np.where(bad, _WORST_COST, costs)


def _focal_cost(cost: FocalLossCost, pairs: Pairs) -> Tensor:
    """Returns the focal loss of the box's class as positive minus as negative."""
    return focal_gap(pairs.logits, cost.alpha, cost.gamma).mul_(cost.weight)


def _l1_cost(cost: BBoxL1Cost, pairs: Pairs) -> Tensor:
    """Returns the L1 distance of boxes relative to the image."""
    numbers = zip(pairs.predicted, pairs.wanted, strict=True)
    distances = ((predicted - wanted).abs_() for predicted, wanted in numbers)
    return reduce(Tensor.add_, distances).mul_(cost.weight)


def _iou_cost(cost: IoUCost, pairs: Pairs) -> Tensor:
    """Returns the negative overlap of boxes in pixels."""
    return _overlaps(cost.iou_mode, pairs).mul_(-cost.weight)


def _position_modulated_cost(cost: PositionModulatedCost, pairs: Pairs) -> Tensor:
    """Returns the focal loss as positive minus as negative of lowered probabilities."""
    # Rounding leaves the GIoU of boxes far apart a little below -1.
    overlap = _overlaps('giou', pairs).add_(1).div_(2).clamp_(min=0)
    probability = pairs.logits.sigmoid() * overlap.pow_(cost.beta)
    miss = 1 - probability
    positive = cost.alpha * miss.pow(cost.gamma) * -(probability + _TINY).log()
    negative = (1 - cost.alpha) * probability.pow(cost.gamma) * -(miss + _TINY).log()
    return (positive - negative).mul_(cost.weight)


def _overlaps(mode: str, pairs: Pairs) -> Tensor:
    """Returns the overlap of boxes in pixels: 'iou' or 'giou'.

    The values are those of mmdet's ``bbox_overlaps``.
    """
    left, top, right, bottom = pairs.predicted_corners
    other_left, other_top, other_right, other_bottom = pairs.wanted_corners
    width = right.minimum(other_right).sub_(left.maximum(other_left)).clamp_(min=0)
    height = bottom.minimum(other_bottom).sub_(top.maximum(other_top)).clamp_(min=0)
    overlap = width.mul_(height)
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    union = (area + other_area).sub_(overlap).clamp_(min=_MIN_AREA)
    similarity = overlap.div_(union)
    if mode == 'giou':
        width = right.maximum(other_right).sub_(left.minimum(other_left)).clamp_(min=0)
        height = bottom.maximum(other_bottom).sub_(top.minimum(other_top)).clamp_(min=0)
        hull = width.mul_(height).clamp_(min=_MIN_AREA)
        similarity = similarity.sub_(union.sub_(hull).neg_().div_(hull))
    return similarity


def _cross_entropy_cost(cost: CrossEntropyLossCost, logits: Tensor, inside: Tensor) -> Tensor:
    """Returns the mean cross-entropy of masks at points, shape (T, N)."""
    # -log of the probability of inside is softplus(-x) = softplus(x) - x.
    costs = F.softplus(logits).sum(1) - inside @ logits.T
    return costs.mul_(cost.weight / logits.shape[1])


def _dice_cost(cost: DiceCost, logits: Tensor, inside: Tensor) -> Tensor:
    """Returns 1 - dice of masks at points, shape (T, N)."""
    predicted = logits.sigmoid()
    shared = inside @ predicted.T
    if not cost.naive_dice:
        predicted, inside = predicted.square(), inside.square()
    total = predicted.sum(1) + inside.sum(1, keepdim=True)
    dice = shared.mul_(2).add_(cost.eps).div_(total.add_(cost.eps))
    return dice.neg_().add_(1).mul_(cost.weight)


def _coordinates(predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the four coordinates of boxes, for operations on all pairs.

    Each is contiguous, with the queries last: on a CPU, operations on numbers that lie apart in
    memory are several times slower.

    Args:
        predicted: Shape (L, B, Q, 4).
        wanted: Shape (B, T, 4).

    Returns:
        Tensors of shape (4, L, B, 1, Q) and (4, B, T, 1).
    """
    return (
        predicted.movedim(-1, 0).contiguous()[..., None, :],
        wanted.movedim(-1, 0).contiguous()[..., None],
    )


_COSTS: dict[type[BaseMatchCost], Callable[..., Tensor]] = {
    FocalLossCost: _focal_cost,
    BBoxL1Cost: _l1_cost,
    IoUCost: _iou_cost,
    PositionModulatedCost: _position_modulated_cost,
}

_MASK_COSTS: dict[type[BaseMatchCost], Callable[..., Tensor]] = {
    CrossEntropyLossCost: _cross_entropy_cost,
    DiceCost: _dice_cost,
}


def _is_supported(cost: BaseMatchCost) -> bool:
    return (
        not getattr(cost, 'binary_input', False)
        and getattr(cost, 'box_format', 'xywh') == 'xywh'
        and getattr(cost, 'iou_mode', 'iou') in ('iou', 'giou')
        and getattr(cost, 'use_sigmoid', True)
        and getattr(cost, 'pred_act', True)
    )


def _describe(cost: BaseMatchCost) -> str:
    settings = ', '.join(f'{key}={value!r}' for key, value in vars(cost).items())
    return f'{type(cost).__name__}({settings})'
