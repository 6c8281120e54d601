"""The vision transformer of DINOv2 and DINOv3 as a detection backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..checkpoint import LoadReport, load_backbone
from ..layers import (
    Block,
    HoldsFrozenWeights,
    PatchEmbed,
    TokenLayout,
    extract_patches,
    note_sizes,
    noted_sizes,
    valid_cells,
)
from .vit_archs import FFNS, resolve_arch


class PackedViT(HoldsFrozenWeights, BaseModule):
    """A plain ViT that computes on valid tokens only; its subclasses add positions to it.

    The tokens of a batch form one packed stream (see :mod:`mmdet_dinov2.layers.tokens`). Padding is
    never embedded, attended to or fed forward, and the features of an image do not depend on the
    other images of its batch. Parameters have the names of DINOv2's official weights.

    Args:
        arch: Name of a size of ``ARCHS``, or a dict with the keys of one.
        patch_size: Side of a patch in pixels.
        num_registers: Register tokens between the CLS and the patch tokens.
        out_indices: Blocks whose output is returned; negative ones count from the end.
        frozen_stages: -1 trains everything, n >= 0 freezes the embeddings and the first n blocks,
            'all' freezes the whole backbone. Frozen parts run without gradients.
        frozen_dtype: 'bfloat16' keeps the matrices of frozen parts in bf16 while the model
            computes, and runs these parts under bf16 autocast, in evaluation too. Checkpoints stay
            fp32 (see :class:`mmdet_dinov2.layers.HoldsFrozenWeights`). 'float32' does so only
            under bf16 autocast with gradients, as in training steps, which it does not change.
        drop_path_rate: Drop rate of the last block; it grows linearly from 0 at the first.
        window_size: Side of attention windows in tokens; 0 lets every block attend globally.
        global_attn_indexes: With windows, the blocks that attend globally.
        with_cp: Whether trained blocks compute their activations again in the backward pass.
        compiled: Whether what works on each token alone runs compiled by ``torch.compile`` (see
            :mod:`mmdet_dinov2.layers.compiling`). ``PaddingAwareDINO`` has a switch for all parts.
        norm_cfg: Normalisation of each token; None takes that of the published models.
        final_norm: Whether the returned maps pass the norm behind the last block.
        init_cfg: Initialisation. ``dict(type='Pretrained', checkpoint=PATH_OR_URL)`` loads weights
            in any published layout (see :mod:`mmdet_dinov2.checkpoint`).

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.
    """

    # What distinguishes the families: published sizes, their norm, whether keys have a bias, and
    # the standard deviation of CLS and register tokens before training.
    ARCHS: ClassVar[Mapping[str, Mapping[str, Any]]]
    NORM_CFG: ClassVar[Mapping[str, Any]]
    KEY_BIAS: ClassVar[bool]
    TOKEN_STD: ClassVar[float]

    def __init__(
        self,
        arch: str | dict,
        patch_size: int,
        num_registers: int,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int | str = -1,
        frozen_dtype: str = 'float32',
        drop_path_rate: float = 0.0,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        with_cp: bool = False,
        compiled: bool = False,
        norm_cfg: dict | None = None,
        final_norm: bool = True,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = self.resolve_arch(arch)
        depth = self.arch['num_layers']
        dims = self.arch['embed_dims']
        check_positive(patch_size=patch_size)
        if num_registers < 0:
            raise ValueError(f'num_registers={num_registers} must be 0 or more')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must lie in [0, 1)')
        self.patch_size = patch_size
        self.num_registers = num_registers
        self.embed_dims = dims
        self.window_size = window_size
        self.out_indices = _resolve_indices('out_indices', out_indices, depth)
        self.num_frozen_blocks, self.all_frozen = _resolve_frozen(frozen_stages, depth)
        self.frozen_in_bf16 = _resolve_frozen_dtype(frozen_dtype, frozen_stages)

        norm_cfg = norm_cfg or dict(self.NORM_CFG)
        global_blocks = _resolve_global_blocks(window_size, global_attn_indexes, depth)
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.patch_embed = PatchEmbed(patch_size, 3, dims)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        # Here, since optimizers and their checkpoints go by the order of parameters.
        self._add_positions()
        if num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, dims))
        self.blocks = nn.ModuleList(
            Block(
                dims,
                self.arch['num_heads'],
                self.arch['feedforward_channels'],
                ffn=FFNS[self.arch['ffn']],
                norm=partial(_build_norm, norm_cfg),
                layer_scale=self.arch['layer_scale'],
                drop_path_rate=rates[i],
                windowed=i not in global_blocks,
                qkv_bias=self.arch['qkv_bias'],
                key_bias=self.KEY_BIAS,
                with_cp=with_cp,
                compiled=compiled,
            )
            for i in range(depth)
        )
        self.norm = _build_norm(norm_cfg, dims) if final_norm else nn.Identity()
        self._freeze()

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """Checks an architecture and fills in defaults; see :func:`.vit_archs.resolve_arch`."""
        return resolve_arch(arch, cls.ARCHS)

    # ------------------------------------------------------------------ positions

    def _add_positions(self) -> None:
        """Makes the parameters and buffers of the positions."""
        raise NotImplementedError

    def _init_positions(self) -> None:
        """Initialises what ``_add_positions`` made."""

    def _added_to_cls(self) -> Tensor | None:
        """Returns what is added to the CLS token, shape (1, C); None adds nothing."""
        return None

    def _added_to_patches(self, grid: tuple[int, int]) -> Tensor | None:
        """Returns what is added to the patches of a grid, (rows * cols, C); None adds nothing."""
        return None

    def rotary_table(self, layout: TokenLayout) -> Tensor | None:
        """Returns the angles that queries and keys are turned by.

        Args:
            layout: Layout of a stream.

        Returns:
            Table for :func:`mmdet_dinov2.layers.rotate`, shape (T, 2, head_dim), fp32; None turns
            nothing.
        """
        return None

    # ------------------------------------------------------------------ weights

    def init_weights(self) -> None:
        """Initialises the parameters as published, then loads the weights of ``init_cfg``."""
        self.release_frozen()
        self._init_positions()
        nn.init.normal_(self.cls_token, std=self.TOKEN_STD)
        if self.num_registers:
            nn.init.normal_(self.register_tokens, std=self.TOKEN_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if _is_pretrained(self.init_cfg):
            # mmengine's initializer ignores what does not match, and loads files that run code.
            report = self._load_pretrained(self.init_cfg['checkpoint'])
            MMLogger.get_current_instance().info(f'Backbone: {report}')
        else:
            super().init_weights()
        # Private: mmengine has no other way to say that this module is initialised.
        self._is_init = True

    def _load_pretrained(self, source: str) -> LoadReport:
        return load_backbone(self, source)

    # ------------------------------------------------------------------ features

    def forward(
        self,
        x: Tensor,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        sample_seeds: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Computes feature maps.

        Args:
            x: Normalised images, shape (B, 3, H, W), any size.
            img_shapes: Valid height and width of each image in pixels, at the top left of ``x``.
                Pixels outside are not used, and their cells are zero. None takes those that
                ``SizedDataPreprocessor`` noted on ``x``, else all of ``x`` as valid.
            sample_seeds: Seed of the stochastic depth of each image; None draws from PyTorch's
                global random numbers.

        Returns:
            For each of ``out_indices`` a map of shape (B, C, ceil(H / p), ceil(W / p)), after the
            final normalisation if there is one.

        Raises:
            ValueError: If ``img_shapes`` does not fit the batch.
        """
        noted = noted_sizes(x) if img_shapes is None else None
        shapes = _check_img_shapes(noted[0] if noted else img_shapes, x)
        layout = self._layout_of(shapes)
        if all(shape == tuple(x.shape[-2:]) for shape in shapes):
            groups = [x]
        else:
            groups = [x[i : i + 1, :, :h, :w] for i, (h, w) in enumerate(shapes)]
        streams = self._run(groups, layout, sample_seeds)
        (size,) = valid_cells([x.shape[-2:]], self.patch_size)
        maps = tuple(self.to_maps(streams[i], layout, size) for i in self.out_indices)
        return tuple(note_sizes(m, shapes, self.patch_size) for m in maps) if noted else maps

    def forward_packed(
        self,
        groups: Sequence[Tensor],
        sample_seeds: Sequence[int] | None = None,
        masked: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> tuple[Tensor, TokenLayout]:
        """Computes the tokens of images of several sizes as one stream, CLS included.

        Args:
            groups: Normalised images, those of one size in one tensor of shape (n, 3, H, W).
            sample_seeds: Seed of the stochastic depth of each image, in the order of the groups;
                None draws from PyTorch's global random numbers.
            masked: Which patches the mask token takes the place of, as for :meth:`embed`.
            mask_token: The mask token, as for :meth:`embed`.

        Returns:
            The tokens after the last of ``out_indices`` and the final norm, if there is one, shape
            (T, C); and their layout, whose images are those of the groups, in order.
        """
        layout = self._layout_of([tuple(x.shape[-2:]) for x in groups for _ in range(len(x))])
        streams = self._run(groups, layout, sample_seeds, masked, mask_token)
        stream = streams[self.out_indices[-1]]
        with self._mode(self.all_frozen, stream.device):
            return self.norm(stream), layout

    def _layout_of(self, shapes: Sequence[tuple[int, int]]) -> TokenLayout:
        grids = tuple(valid_cells(shapes, self.patch_size))
        return TokenLayout(grids, 1 + self.num_registers, self.window_size)

    def _run(
        self,
        groups: Sequence[Tensor],
        layout: TokenLayout,
        seeds: Sequence[int] | None,
        masked: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Embeds images and runs the blocks; see :meth:`embed` and :meth:`run_blocks`."""
        device = groups[0].device
        if self.frozen_in_bf16 or (torch.is_grad_enabled() and _is_autocast_to_bf16(device)):
            self.hold_frozen()
        else:
            self.release_frozen()
        stream = self.embed(groups, layout, masked, mask_token)
        return self.run_blocks(stream, layout, seeds)

    def embed(
        self,
        groups: Sequence[Tensor],
        layout: TokenLayout,
        masked: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Makes the token stream of images.

        Args:
            groups: Normalised images, those of one size in one tensor of shape (n, 3, H, W).
            layout: Layout of the stream; its images are those of the groups, in order.
            masked: Which patches the mask token takes the place of, bool, image after image and
                row-major within an image, shape (number of patches,); None masks nothing.
            mask_token: The mask token, shape (C,). It gets the position of the patch.

        Returns:
            Tokens, with their positions if these are added, shape (T, C), in the dtype of the
            parameters.
        """
        with self._mode(self._embeddings_frozen, groups[0].device):
            stream = self._embed(groups, layout, masked, mask_token)
        # Autocast computes embeddings in low precision, which is too coarse for a sum of residuals.
        return stream.to(self.cls_token.dtype)

    def prefix_tokens(self) -> Tensor:
        """Returns the tokens before the patches of each image, shape (1 + registers, C)."""
        prefix = _add(self.cls_token[0], self._added_to_cls())
        return torch.cat((prefix, self.register_tokens[0])) if self.num_registers else prefix

    def with_positions(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Adds positions to the patches of a grid, row-major, (..., rows * cols, C)."""
        return _add(patches, self._added_to_patches(grid))

    def run_blocks(
        self, stream: Tensor, layout: TokenLayout, seeds: Sequence[int] | None = None
    ) -> dict[int, Tensor]:
        """Runs the blocks.

        Args:
            stream: What ``embed`` returned, shape (T, C).
            layout: Layout of the stream.
            seeds: Seed of the stochastic depth of each image; None draws from PyTorch's global
                random numbers.

        Returns:
            For each block of ``out_indices``, the stream after it, before the final norm.
        """
        generators = seeds and [torch.Generator().manual_seed(seed) for seed in seeds]
        rotary = self.rotary_table(layout)
        outputs = {}
        for i, block in enumerate(self.blocks):
            frozen = i < self.num_frozen_blocks
            kept = None if frozen else block.draw_kept(len(layout.grids), generators)
            with self._mode(frozen, stream.device):
                stream = block(stream, layout, kept, rotary)
            if i in self.out_indices:
                outputs[i] = stream
        return outputs

    def to_maps(self, stream: Tensor, layout: TokenLayout, size: tuple[int, int]) -> Tensor:
        """Turns a stream into feature maps.

        Args:
            stream: Output of a block, shape (T, C).
            layout: Layout of the stream.
            size: Rows and columns of the maps.

        Returns:
            Maps after the final norm, if there is one, shape (B, C, rows, cols), zero outside the
            images.
        """
        with self._mode(self.all_frozen, stream.device):
            return layout.to_maps(self.norm(stream), size)

    @contextmanager
    def _mode(self, frozen: bool, device: torch.device) -> Iterator[None]:
        """Switches gradients off for a frozen part, and bf16 autocast on if it is held in bf16."""
        with ExitStack() as stack:
            if frozen:
                stack.enter_context(torch.no_grad())
            if frozen and self.frozen_in_bf16:
                stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            yield

    def _embed(
        self,
        groups: Sequence[Tensor],
        layout: TokenLayout,
        masked: Tensor | None,
        mask_token: Tensor | None,
    ) -> Tensor:
        patches = [extract_patches(x, self.patch_size).flatten(0, 2) for x in groups]
        embedded = self.patch_embed(torch.cat(patches))
        if masked is not None:
            embedded = torch.where(masked[:, None], mask_token.to(embedded.dtype), embedded)
        prefix = self.prefix_tokens()
        added = {grid: self._added_to_patches(grid) for grid in set(layout.grids)}
        pieces = []
        sizes = [rows * cols for rows, cols in layout.grids]
        for i, tokens in enumerate(embedded.split(sizes)):
            tokens = _add(tokens, added[layout.grids[i]])
            pieces += (prefix.to(tokens.dtype), layout.to_stream_order(tokens, i))
        return torch.cat(pieces)

    @property
    def _embeddings_frozen(self) -> bool:
        # Not by `requires_grad`: the weights of a teacher, which take the place of these for a
        # moment, have no gradient either, and are no frozen ones.
        return self.all_frozen or self.num_frozen_blocks >= 0

    def _frozen_modules(self) -> list[nn.Module]:
        if self.all_frozen:
            return [self]
        if not self._embeddings_frozen:
            return []
        return [self.patch_embed, *self.blocks[: self.num_frozen_blocks]]

    def _freeze(self) -> None:
        if self.all_frozen:
            self.requires_grad_(False)
        elif self.num_frozen_blocks >= 0:
            # Tokens, and positions that are learned.
            for parameter in self.parameters(recurse=False):
                parameter.requires_grad = False
            for module in self._frozen_modules():
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> PackedViT:
        """Sets the mode of the trained parts; frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Returns the depth of a parameter for layer-wise learning-rate decay.

        Args:
            param_name: Name of the parameter, starting with ``prefix``.
            prefix: Prefix of the backbone's parameters, such as 'backbone.'.

        Returns:
            The depth: 0 for tokens, position and patch embedding, i + 1 for block i and
            num_layers + 1 for everything after the blocks; and the number of depths,
            num_layers + 2.

        Raises:
            ValueError: If the name does not start with the prefix.
        """
        num_depths = self.arch['num_layers'] + 2
        if not param_name.startswith(prefix):
            raise ValueError(f'parameter {param_name!r} does not start with {prefix!r}')
        parts = param_name[len(prefix) :].split('.')
        if parts[0] in ('cls_token', 'pos_embed', 'register_tokens', 'patch_embed'):
            return 0, num_depths
        if parts[0] == 'blocks':
            return int(parts[1]) + 1, num_depths
        return num_depths - 1, num_depths


def detector_layer_depth(backbone: nn.Module, param_name: str, prefix: str = '') -> tuple[int, int]:
    """Returns the depth of a parameter of a detector for layer-wise learning-rate decay.

    Everything after the backbone has the depth of the last layer.

    Args:
        backbone: A backbone with ``get_layer_depth``.
        param_name: Name of the parameter in the detector, starting with ``prefix``.
        prefix: Prefix of the detector's parameters.

    Returns:
        The depth and the number of depths, as the backbone counts them.
    """
    prefix = f'{prefix}backbone.'
    if param_name.startswith(prefix):
        return backbone.get_layer_depth(param_name, prefix)
    num_depths = backbone.get_layer_depth(prefix, prefix)[1]
    return num_depths - 1, num_depths


def _add(tokens: Tensor, positions: Tensor | None) -> Tensor:
    return tokens if positions is None else tokens + positions.to(tokens.dtype)


def _is_autocast_to_bf16(device: torch.device) -> bool:
    kind = device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16


def _is_pretrained(init_cfg: dict | list[dict] | None) -> bool:
    return isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'


def _build_norm(norm_cfg: dict, dim: int) -> nn.Module:
    return build_norm_layer(norm_cfg, dim)[1]


def check_positive(**values: int) -> None:
    """Raises ``ValueError`` unless all values are positive numbers of pixels."""
    for name, value in values.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f'{name} must be a positive number of pixels, got {value!r}')


def _resolve_indices(name: str, indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Checks block indices and counts them from the first block."""
    indices = (indices,) if isinstance(indices, int) else tuple(indices)
    if not indices and name == 'out_indices':
        raise ValueError('out_indices must name at least one block')
    for index in indices:
        if not isinstance(index, int) or not -depth <= index < depth:
            raise ValueError(
                f'{name} holds {index!r}, but the {depth} blocks are numbered 0..{depth - 1}'
            )
    return tuple(index % depth for index in indices)


def _resolve_frozen(frozen_stages: int | str, depth: int) -> tuple[int, bool]:
    """Returns the number of frozen blocks, -1 if nothing is frozen, and whether everything is."""
    if frozen_stages == 'all':
        return depth, True
    if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= depth:
        raise ValueError(
            f"frozen_stages={frozen_stages!r} must be 'all' or a number from -1 (nothing) to "
            f'{depth} (embeddings and all blocks)'
        )
    return frozen_stages, False


def _resolve_frozen_dtype(frozen_dtype: str, frozen_stages: int | str) -> bool:
    """Returns whether frozen matrices are held in bf16."""
    if frozen_dtype not in ('float32', 'bfloat16'):
        raise ValueError(f"frozen_dtype must be 'float32' or 'bfloat16', got {frozen_dtype!r}")
    if frozen_dtype == 'bfloat16' and frozen_stages == -1:
        raise ValueError(
            "frozen_dtype='bfloat16' needs a frozen part: set frozen_stages, or leave it out"
        )
    return frozen_dtype == 'bfloat16'


def _resolve_global_blocks(
    window_size: int, global_attn_indexes: Sequence[int], depth: int
) -> set[int]:
    """Returns the blocks that attend globally."""
    if window_size < 0:
        raise ValueError(f'window_size={window_size} must be 0 (no windows) or more')
    if not window_size:
        if global_attn_indexes:
            raise ValueError(
                f'global_attn_indexes={tuple(global_attn_indexes)} needs a window_size; '
                'without windows every block is global'
            )
        return set(range(depth))
    if not global_attn_indexes:
        raise ValueError(
            f'window_size={window_size} needs global_attn_indexes: without a global block no '
            'information crosses a window; four evenly spaced ones are usual, such as '
            f'{tuple(depth * (i + 1) // 4 - 1 for i in range(4))}'
        )
    return set(_resolve_indices('global_attn_indexes', global_attn_indexes, depth))


def _check_img_shapes(
    img_shapes: Sequence[tuple[int, int]] | None, x: Tensor
) -> list[tuple[int, int]]:
    height, width = x.shape[-2:]
    if img_shapes is None:
        return [(height, width)] * len(x)
    shapes = [(int(shape[0]), int(shape[1])) for shape in img_shapes]
    if len(shapes) != len(x):
        raise ValueError(f'img_shapes has {len(shapes)} entries for {len(x)} images')
    for i, (h, w) in enumerate(shapes):
        if not (0 < h <= height and 0 < w <= width):
            raise ValueError(
                f'img_shapes[{i}]={(h, w)} does not fit into the batch of {height} x {width} '
                'pixels (height x width)'
            )
    return shapes
