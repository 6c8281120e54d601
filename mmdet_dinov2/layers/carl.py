"""Weights of classification-aware regression (Cao et al., arXiv:1904.04821, section 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def carl_weights(
    probability: Tensor, images: Tensor, num_images: int, k: float, bias: float
) -> Tensor:
    """Computes the weights of the regression losses of matched boxes.

    A box weighs ``(bias + (1 - bias) * probability) ** k``, divided by the mean of these numbers in
    its image. So the sum of the losses of an image stays the same, and its gradient raises the
    scores of the boxes that fit better than others. The original divides by the mean of the batch,
    which would make an image depend on its batch mates; an image with one box has the weight 1.

    Args:
        probability: Predicted probability of the class of each box, shape (M,).
        images: Number of the image, or of the layer and image, of each box, shape (M,).
        num_images: How many numbers there are.
        k: Exponent, at least 0.
        bias: Weight of a box with a probability of 0, above 0 and up to 1.

    Returns:
        Weights, shape (M,), with a gradient to the probabilities.
    """
    weights = (bias + (1 - bias) * probability).pow(k)
    zeros = weights.new_zeros(num_images)
    sums = zeros.index_add(0, images, weights)
    counts = zeros.index_add(0, images, torch.ones_like(weights))
    return weights * (counts[images] / sums[images])
