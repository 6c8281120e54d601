"""Losses of a student that predicts the targets of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(targets: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Computes the cross-entropy of a student with the targets of a teacher.

    Args:
        targets: Probabilities, shape (N, K).
        scores: Scores of the student, shape (N, K).
        temperature: Temperature of the student.

    Returns:
        Cross-entropy of each row in nats, shape (N,), fp32.
    """
    return -(targets * F.log_softmax(scores.float() / temperature, dim=-1)).sum(-1)


def dino_loss(targets: Tensor, scores: Tensor, num_global: int, temperature: float) -> Tensor:
    """Computes the loss of CLS tokens, each with the targets of other crops of its image.

    The mean over images and over pairs of a global crop, which gives the targets, and any other
    crop (DINO, arXiv:2104.14294, equation 3).

    Args:
        targets: Probabilities of the global crops: the first ones of all images, the second ones,
            and so on, shape (G * B, K).
        scores: Scores of the student, in the same order with the local crops behind, (V * B, K).
        num_global: Number of global crops G of an image.
        temperature: Temperature of the student.

    Returns:
        Shape (), fp32.
    """
    num_images = len(targets) // num_global
    log_probs = F.log_softmax(scores.float() / temperature, dim=-1)
    targets = targets.unflatten(0, (num_global, num_images))
    log_probs = log_probs.unflatten(0, (-1, num_images))
    # The sum over all pairs, without those of a crop with itself.
    pairs = (targets.sum(0) * log_probs.sum(0)).sum() - (targets * log_probs[:num_global]).sum()
    return -pairs / (num_images * num_global * (len(log_probs) - 1))


def mean_of_images(losses: Tensor, counts: Sequence[int]) -> Tensor:
    """Computes the mean of the means of images; images without patches count as zero.

    Args:
        losses: Losses of patches, image after image, shape (sum(counts),).
        counts: Number of patches of each image.
    """
    weights = [1 / (len(counts) * count) for count in counts for _ in range(count)]
    weights = torch.tensor(weights, dtype=losses.dtype).to(losses.device, non_blocking=True)
    return (losses * weights).sum()


def entropy(probabilities: Tensor) -> Tensor:
    """Computes the entropy of each row of (N, K) in nats, shape (N,)."""
    return torch.special.entr(probabilities).sum(-1)
