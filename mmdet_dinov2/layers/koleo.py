"""The KoLeo regularizer, which spreads features apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-8


def koleo_loss(own: Tensor, everyone: Tensor, first: int = 0) -> Tensor:
    """Computes minus the mean logarithm of the distance to the nearest neighbour.

    After Kozachenko and Leonenko (arXiv:1806.03198, section 3), as DINOv2 uses it. One image has no
    neighbour, and no loss.

    Args:
        own: Directions of the images of this process, of length 1, shape (n, C), fp32.
        everyone: Directions that neighbours are looked for among, shape (N, C); those of this
            process are among them.
        first: Row of ``everyone`` that is the first one of ``own``.

    Returns:
        The mean over the images of this process, shape ().
    """
    if len(everyone) < 2:
        return 0.0 * own.sum()
    with torch.no_grad():
        cosines = own @ everyone.T
        rows = torch.arange(len(own), device=own.device)
        cosines[rows, rows + first] = -torch.inf
        nearest = cosines.argmax(1)
    distances = F.pairwise_distance(own, everyone.index_select(0, nearest), eps=_EPS)
    return -(distances + _EPS).log().mean()
