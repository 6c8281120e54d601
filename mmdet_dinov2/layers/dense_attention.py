"""Dense softmax attention, with the choice of PyTorch's kernels on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's attention, which PyTorch prefers on recent GPUs, builds a graph on the host for each new
# shape. With images of any size, nearly every shape is new. Measured on an H100, a new number of
# queries takes 150 to 2300 ms, against 1 ms with these.
_ANY_ORDER = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
# The backward passes of the others add with atomics: gradients differ from run to run by a bf16
# rounding step, even under `use_deterministic_algorithms(True, warn_only=True)`.
_FIXED_ORDER = (SDPBackend.MATH,)


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """Runs ``scaled_dot_product_attention`` without cuDNN, and reproducibly on request.

    Under ``torch.use_deterministic_algorithms`` a forward pass that needs gradients uses the kernel
    whose gradients have the same bits in every run.

    Args:
        q: Queries, shape (..., Q, C).
        k: Keys, shape (..., K, C).
        v: Values, shape (..., K, C).
        attn_mask: True where a query may attend, shape broadcastable to (..., Q, K).
        dropout_p: Probability that an attention weight is dropped, in [0, 1].

    Returns:
        Attended values, shape (..., Q, C).
    """
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p)
    with sdpa_kernel(list(_FIXED_ORDER if needs_fixed_order(q, k, v) else _ANY_ORDER)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p)


def needs_fixed_order(*inputs: Tensor) -> bool:
    """Returns whether gradients of these inputs must have the same bits in every run."""
    return (
        torch.are_deterministic_algorithms_enabled()
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in inputs)
    )
