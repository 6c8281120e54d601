"""Classification losses whose targets are the overlaps of predicted boxes.

As in :mod:`.focal_loss`, the loss of a batch is that of queries without a box
(:func:`.negative_focal_loss`), corrected where a query has one. These are the corrections.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# LW-DETR's least target, without which a box far off would have a gradient of almost 0.
_MIN_TARGET = 0.01


def ia_bce_gap(logits: Tensor, overlaps: Tensor, alpha: float, gamma: float) -> Tensor:
    """Computes the IoU-aware BCE of logits as positives minus their loss as negatives.

    The target of a positive is ``probability ** alpha * overlap ** (1 - alpha)``, at least 0.01 and
    without a gradient; a negative has the loss ``probability ** gamma * BCE`` (LW-DETR,
    arXiv:2406.03459, after Align-DETR, arXiv:2304.07527; also that of RF-DETR).

    Args:
        logits: Logits of the classes of matched boxes, fp32, any shape.
        overlaps: IoU of predicted and matched boxes, 0 to 1, of the same shape; no gradient.
        alpha: Share of the probability in the target, 0 to 1.
        gamma: Exponent of the weight of negatives, at least 0.

    Returns:
        The difference, of the same shape; finite for all finite logits.
    """
    probability = logits.sigmoid()
    target = probability.detach().pow(alpha) * overlaps.pow(1 - alpha)
    positive = F.softplus(logits) - target.clamp(min=_MIN_TARGET) * logits
    return positive - probability.pow(gamma) * F.softplus(logits)


def mal_gap(logits: Tensor, overlaps: Tensor, gamma: float) -> Tensor:
    """Computes the matchability-aware loss of logits as positives minus their loss as negatives.

    A positive has the BCE with the target ``overlap ** gamma``; a negative has the BCE weighted by
    ``probability ** gamma``, where the weight has no gradient, as in the authors' program (DEIM,
    arXiv:2412.04234).

    Args:
        logits: As in :func:`ia_bce_gap`.
        overlaps: As in :func:`ia_bce_gap`.
        gamma: Exponent, at least 0.

    Returns:
        The difference, of the same shape; finite for all finite logits.
    """
    surprise = F.softplus(logits)
    positive = surprise - overlaps.pow(gamma) * logits
    return positive - logits.detach().sigmoid().pow(gamma) * surprise
