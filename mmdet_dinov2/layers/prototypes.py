"""Prototypes that tokens are compared with, and the targets made from them (DINO, iBOT, DINOv2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_


class PrototypeHead(nn.Module):
    """Compares tokens with learned prototypes (DINO, arXiv:2104.14294, section 3.1).

    Tokens pass an MLP with a narrow end. Its output and the prototypes count by their directions
    alone, so the scores are cosines.

    Args:
        dim: Channels of a token.
        num_prototypes: Number of prototypes K.
        hidden: Channels between the layers of the MLP.
        bottleneck: Channels at its end.
        num_layers: Its linear layers, at least 1.
    """

    def __init__(
        self,
        dim: int,
        num_prototypes: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        num_layers: int = 3,
    ) -> None:
        super().__init__()
        self.num_prototypes = num_prototypes
        widths = [dim, *[hidden] * (num_layers - 1), bottleneck]
        layers: list[nn.Module] = []
        for i in range(num_layers):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = nn.Linear(bottleneck, num_prototypes, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Computes the cosines of tokens (N, C) with the prototypes, shape (N, K)."""
        directions = F.normalize(self.mlp(tokens), dim=-1, eps=1e-6)
        return F.linear(directions, F.normalize(self.last_layer.weight, dim=-1))


def centred_softmax(scores: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Turns the scores of a teacher into targets (DINO, arXiv:2104.14294, equation 4).

    Args:
        scores: Shape (N, K).
        center: Mean of earlier scores, shape (K,): taking it off keeps one prototype from becoming
            the target of everything.
        temperature: The lower, the sharper; it keeps targets from becoming uniform.

    Returns:
        Probabilities, shape (N, K), fp32.
    """
    return F.softmax((scores.float() - center) / temperature, dim=-1)


def sinkhorn_knopp(
    scores: Tensor,
    temperature: float,
    add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
    iterations: int = 3,
) -> Tensor:
    """Turns the scores of a teacher into targets that use all prototypes equally.

    Rows and columns of the exponentials are scaled in turn until each token counts once, and each
    prototype as often as any other (SwAV, arXiv:2006.09882, section 3.1).

    Args:
        scores: Cosines of the tokens of this process, shape (N, K).
        temperature: The lower, the sharper.
        add_up: Adds up a tensor over the processes; each of them has to call this function.
        iterations: Number of turns.

    Returns:
        Probabilities, shape (N, K), fp32.
    """
    # The largest exponent is 0 for a cosine of 1: none overflows, at any temperature.
    weights = ((scores.float() - 1) / temperature).exp()
    least = torch.finfo(weights.dtype).tiny  # a prototype that nothing is near to stays unused
    for _ in range(iterations):
        weights = weights / add_up(weights.sum(0)).clamp_min(least)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(least)
    return weights
