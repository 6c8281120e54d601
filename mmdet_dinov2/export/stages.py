"""What a detector computes on its way from images to boxes, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..layers import TokenLayout
from ..models import PaddingAwareDINO
from ..models.mask_queries import PixelEmbedding


@contextmanager
def recorded_stages(detector: PaddingAwareDINO) -> Iterator[dict[str, Tensor]]:
    """Records the stages of a forward pass.

    The order of tokens and cells is that of a batch of images of one size without windows, so that
    the stages of all kinds of layouts can be compared.

    Args:
        detector: The detector.

    Yields:
        A dict that the next forward pass fills, in the order of the computation: ``embedding``,
        ``block N``, ``pyramid`` (T, C), ``encoder layer N``, ``proposals`` (boxes, (B, Q, 4)),
        ``decoder layer N`` (B, Q, C) and, with a mask head, ``pixel embedding`` (cells, D).
    """
    stages: dict[str, Tensor] = {}
    handles = []

    def stream_before(module: Any, args: tuple) -> None:
        stages['embedding'] = _row_major(args[0], args[1])

    def pyramid(module: Any, args: tuple) -> None:
        stages['pyramid'] = args[0]

    def proposals(module: Any, args: tuple, kwargs: dict) -> None:
        stages['proposals'] = kwargs['reference_points']

    def after(name: str) -> Any:
        def keep(module: Any, args: tuple, output: Tensor) -> None:
            is_block = name.startswith('block')
            stages[name] = _row_major(output, args[1]) if is_block else output

        return keep

    handles.append(detector.backbone.blocks[0].register_forward_pre_hook(stream_before))
    handles.append(detector.encoder.register_forward_pre_hook(pyramid))
    handles.append(detector.decoder.register_forward_pre_hook(proposals, with_kwargs=True))
    for kind, layers in (
        ('block', detector.backbone.blocks),
        ('encoder layer', detector.encoder.layers),
        ('decoder layer', detector.decoder.layers),
    ):
        for number, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(after(f'{kind} {number}')))
    if detector.mask_head is not None:

        def pixels(module: Any, args: tuple, output: PixelEmbedding) -> None:
            stages['pixel embedding'] = output.stream

        handles.append(detector.mask_head.register_forward_hook(pixels))
    try:
        yield stages
    finally:
        for handle in handles:
            handle.remove()


def _row_major(stream: Tensor, layout: Any) -> Tensor:
    """Puts the patches of each image of a stream (T, C) into row-major order."""
    if not isinstance(layout, TokenLayout) or not layout.window_size:
        return stream
    pieces = []
    for image, tokens in enumerate(stream.split(layout.lengths)):
        first = layout.num_prefix
        pieces += (tokens[:first], layout.to_row_major(tokens[first:], image))
    return torch.cat(pieces)
