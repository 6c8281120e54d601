"""Losses of masks at points."""

from __future__ import annotations

import math

import torch
from mmdet.models.losses import CrossEntropyLoss, DiceLoss
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..errors import InputError


class MaskLosses(nn.Module):
    """Cross-entropy and dice of masks at points; see :class:`.MaskHead` for the arguments."""

    def __init__(
        self,
        oversample_ratio: float,
        importance_sample_ratio: float,
        loss_mask: dict | None,
        loss_dice: dict | None,
    ) -> None:
        super().__init__()
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.loss_mask = _build(
            CrossEntropyLoss, 'loss_mask', loss_mask, dict(use_sigmoid=True, loss_weight=5.0)
        )
        self.loss_dice = _build(
            DiceLoss, 'loss_dice', loss_dice, dict(naive_dice=True, eps=1.0, loss_weight=5.0)
        )

    def num_candidates(self, num_points: int) -> int:
        """Returns from how many points of an image those of a mask are chosen."""
        return num_points + self._num_surplus(num_points)

    def _num_surplus(self, num_points: int) -> int:
        uncertain = int(self.importance_sample_ratio * num_points)
        return math.ceil(self.oversample_ratio * uncertain) - uncertain

    def choose(self, logits: Tensor, num_points: int) -> Tensor:
        """Chooses points, as in PointRend: the most uncertain ones of most, all of the others.

        Args:
            logits: Logits of masks at all candidates, shape (N, candidates).
            num_points: How many to choose.

        Returns:
            Indices, shape (N, num_points).
        """
        uncertain = int(self.importance_sample_ratio * num_points)
        others = num_points - uncertain
        index = torch.arange(others, device=logits.device).expand(len(logits), -1)
        best = logits[:, others:].abs().topk(uncertain, dim=1, largest=False, sorted=False)
        return torch.cat((index, best.indices + others), 1)

    def forward(self, logits: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """Computes the losses of masks.

        Args:
            logits: Shape (N, points).
            inside: Whether the true masks cover the points, shape (N, points).

        Returns:
            ``loss_mask`` and ``loss_dice``, weighted, shape (N,).
        """
        inside = inside.to(logits.dtype)
        if not len(logits):
            nothing = logits.sum(1)  # mmdet's losses return a single zero
            return dict(loss_mask=nothing, loss_dice=nothing)
        return dict(
            loss_mask=self.loss_mask(logits, inside, reduction_override='none').mean(1),
            loss_dice=self.loss_dice(logits, inside, reduction_override='none'),
        )


def _build(kind: type[nn.Module], name: str, cfg: dict | None, default: dict) -> nn.Module:
    loss = MODELS.build({'type': kind.__name__, **(cfg or default)})
    if type(loss) is not kind or not loss.use_sigmoid:
        raise InputError(
            f'mask_head.{name} must be a {kind.__name__} with use_sigmoid=True, but is {cfg!r}'
        )
    return loss
