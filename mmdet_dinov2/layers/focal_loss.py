"""Sigmoid focal loss (Lin et al., arXiv:1708.02002) without a tensor of one-hot classes.

Nearly all classes of nearly all queries are negative. So the loss of a batch is computed as if all
were negative (:func:`negative_focal_loss`) and then corrected where a query has a box
(:func:`focal_gap`). The correction is also the contribution of a class to the matching cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def focal_gap(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Computes the focal loss of logits as positives minus their focal loss as negatives.

    Args:
        logits: Any shape; fp32, so that small probabilities differ.
        alpha: Weight of positives, 0 to 1; negatives have 1 - alpha.
        gamma: Exponent of the modulating factor, at least 0.

    Returns:
        The difference, of the same shape; finite for all finite logits.
    """
    probability = logits.sigmoid()
    # -log(1 - p) = softplus(x) and -log(p) = softplus(x) - x, finite where p rounds to 0 or 1.
    surprise = F.softplus(logits)
    positive = alpha * (1 - probability).pow(gamma) * (surprise - logits)
    negative = (1 - alpha) * probability.pow(gamma) * surprise
    return positive - negative


def negative_focal_loss(
    logits: Tensor, alpha: float, gamma: float, fixed_weights: bool = False
) -> Tensor:
    """Computes the focal loss of queries whose classes are all negative.

    The derivative is computed together with the value, so that only one tensor of the size of the
    logits is kept for the backward pass. It cannot be differentiated twice.

    Args:
        logits: Shape (..., classes).
        alpha: As in :func:`focal_gap`.
        gamma: As in :func:`focal_gap`.
        fixed_weights: Whether the modulating factor counts as a constant in the derivative.

    Returns:
        Sum over the classes, fp32, shape (...).
    """
    return _NegativeFocalLoss.apply(logits.float(), alpha, gamma, fixed_weights)


class _NegativeFocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, alpha: float, gamma: float, fixed_weights: bool) -> Tensor:
        probability = logits.sigmoid()
        surprise = F.softplus(logits)
        modulation = probability.pow(gamma).mul_(1 - alpha)
        loss = (modulation * surprise).sum(-1)
        if ctx.needs_input_grad[0]:
            # d/dx p**gamma * s = p**gamma * (gamma * (1 - p) * s + p), since p' = p * (1 - p) and
            # s' = p.
            if fixed_weights:
                slope = modulation.mul_(probability)
            else:
                slope = surprise.mul_(1 - probability).mul_(gamma).add_(probability)
                slope.mul_(modulation)
            ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad[..., None] * slope, None, None, None
