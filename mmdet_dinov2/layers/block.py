"""The transformer block of DINOv2 and DINOv3 on a packed token stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .compiling import TokenwiseModule, tokenwise
from .recompute import recomputable
from .tokens import TokenLayout

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, '_linear_pointwise'
)


class LayerScale(nn.Module):
    """Scales each channel by a learned factor (CaiT, arXiv:2103.17239, section 2)."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma

    def add(
        self, x: Tensor, branch: Tensor, rows: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Adds a scaled branch to the residual stream.

        Args:
            x: Residual stream, shape (T, C).
            branch: Shape (T, C), or (N, C) with ``rows``.
            rows: Tokens of ``x`` that the branch was computed for, shape (N,); None takes all.
            scale: Factor of the branch; needs ``rows``.

        Returns:
            ``x + scale * self(branch)``, shape (T, C).
        """
        if rows is not None:
            return x.index_add(0, rows, self(branch).to(x.dtype), alpha=scale)
        # One pass over memory. Autocast would copy a bf16 branch to fp32 first, and keep the copy
        # for the backward pass.
        with torch.autocast(x.device.type, enabled=False):
            return torch.addcmul(x, branch, self.gamma)


class LinearGELU(nn.Linear):
    """A linear layer with GELU after it, on the last dimension.

    Where no gradient is needed, oneDNN computes both in one operator on CPUs: the product is in
    cache when GELU reads it, and on AMD's processors it takes less time than in MKL, which torch
    uses otherwise.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self._can_be_fused(x):
            # Private: the operator that torch.compile puts in place of this pair.
            fused = torch.ops.mkldnn._linear_pointwise
            return fused(x, self.weight, self.bias, 'gelu', [], 'none')
        x = super().forward(x)
        # In place where no gradient needs the input: on CPUs, fresh memory takes as long as GELU.
        return F.gelu(x) if x.requires_grad else torch.ops.aten.gelu_(x)

    def _can_be_fused(self, x: Tensor) -> bool:
        # A traced, compiled or exported graph has standard operators.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if not _HAS_ONEDNN or x.device.type != 'cpu' or torch.is_autocast_enabled('cpu'):
            return False
        tensors = [x, *self.parameters()]
        return (
            not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
            and all(t.dtype == torch.float32 for t in tensors)
            # Not of classes of others, such as quantized weights, which know F.linear only.
            and type(x) is Tensor
            and type(self.weight) is nn.Parameter
        )


class Mlp(nn.Module):
    """Two linear layers with GELU between them, on the last dimension."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = LinearGELU(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class SwiGLU(nn.Module):
    """Gated feed-forward layer of large models (arXiv:2002.05202).

    The first half of ``w12`` is the gate, as in the published weights of DINOv2.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(TokenwiseModule):
    """Pre-norm transformer block with LayerScale and stochastic depth per image.

    Stochastic depth computes a branch only for the images that keep it, so its cost falls by the
    drop rate. DINOv2 keeps a fixed share of the batch, which at a batch of 2 turns a rate of 0.1
    into 0.5. Here each image is drawn by itself, and kept branches are scaled by 1 / (1 - rate).

    Args:
        dim: Channels of a token.
        num_heads: Attention heads.
        hidden: Hidden channels of the feed-forward layer.
        ffn: Feed-forward layer, called with (dim, hidden).
        norm: Normalisation of each token, called with (dim).
        layer_scale: Initial value of both LayerScales.
        drop_path_rate: Probability that an image skips a branch in training, in [0, 1).
        windowed: Whether tokens attend within windows instead of images.
        qkv_bias: Whether queries, keys and values have a bias.
        key_bias: Whether that of the keys is one of them.
        with_cp: Whether to compute activations again in the backward pass.
        compiled: Whether what works on each token alone runs compiled.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden: int,
        ffn: Callable[[int, int], nn.Module] = Mlp,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        layer_scale: float = 1e-5,
        drop_path_rate: float = 0.0,
        windowed: bool = False,
        qkv_bias: bool = True,
        key_bias: bool = True,
        with_cp: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(compiled=compiled)
        self.norm1 = norm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, key_bias)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = norm(dim)
        self.mlp = ffn(dim, hidden)
        self.ls2 = LayerScale(dim, layer_scale)
        self.drop_path_rate = drop_path_rate
        self.windowed = windowed
        self.with_cp = with_cp

    def draw_kept(
        self, num_images: int, generators: Sequence[torch.Generator] | None = None
    ) -> tuple[tuple[int, ...], ...] | None:
        """Draws which images keep each of the two branches.

        This is not part of ``forward``, so that a recomputed forward pass uses the same draw.

        Args:
            num_images: Number of images.
            generators: Random numbers of each image, on the CPU; None takes the global ones.

        Returns:
            Indices of the kept images for the attention and the feed-forward branch, or None when
            nothing is dropped.
        """
        if not self.training or not self.drop_path_rate:
            return None
        if generators is None:
            numbers = torch.rand(2, num_images)
        else:
            numbers = torch.stack([torch.rand(2, generator=g) for g in generators], 1)
        kept = numbers >= self.drop_path_rate
        return tuple(tuple(row.nonzero().flatten().tolist()) for row in kept)

    @recomputable
    def forward(
        self,
        x: Tensor,
        layout: TokenLayout,
        kept: Sequence[Sequence[int]] | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        """Computes ``x = x + ls1(attn(norm1(x)))``, then ``x = x + ls2(mlp(norm2(x)))``.

        Args:
            x: Token stream, shape (T, C).
            layout: Layout of the stream.
            kept: What ``draw_kept`` returned.
            rotary: Table of the stream that turns queries and keys, shape (T, 2, head_dim); see
                :class:`.position.RotaryPosition`. None turns nothing.

        Returns:
            Token stream, shape (T, C).
        """
        if kept is None:
            return self._add_branches(x, self._attend(x, layout, rotary))
        scale = 1 / (1 - self.drop_path_rate)
        # Stochastic depth: each branch is computed and added for the images that keep it. (Backward
        # passes of `x[rows]` sort the rows, as they may occur twice.)
        rows = layout.token_index(kept[0], x.device)
        own = None if rotary is None else rotary.index_select(0, rows)
        attended = self._attend(x.index_select(0, rows), layout.select(kept[0]), own)
        x = self.ls1.add(x, self.attn.proj(attended), rows, scale)
        rows = layout.token_index(kept[1], x.device)
        return self.ls2.add(x, self._feed_forward(x.index_select(0, rows)), rows, scale)

    # The terms of the equation. What comes before the attention and what comes after it may run
    # compiled; the latter is one part, so that residuals and norm share their passes over memory.

    def _attend(self, x: Tensor, layout: TokenLayout, rotary: Tensor | None) -> Tensor:
        streams = (x,) if rotary is None else (x, rotary)
        return self.attn.attend(*self._qkv(*streams), layout.segments(self.windowed))

    @tokenwise
    def _qkv(self, x: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.attn.project(self.norm1(x), rotary)

    @tokenwise
    def _add_branches(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.ls1.add(x, self.attn.proj(attended))
        return self.ls2.add(x, self._feed_forward(x))

    @tokenwise
    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm2(x))
