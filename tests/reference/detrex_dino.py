"""detrex's DINO on DINOv2, for one image, from its published tensors by their own names.

Every level has a grid of its own, and cell j of w cells lies at (j + 0.5) / w of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Grids = list[tuple[int, int]]


@dataclass
class SlowDetections:
    """What the detector finds for each query.

    Attributes:
        logits: Class logits, shape (Q, classes).
        boxes: Boxes (x1, y1, x2, y2) in pixels, shape (Q, 4).
        proposals: Boxes (cx, cy, w, h) relative to the image that the queries start from, (Q, 4).
    """

    logits: Tensor
    boxes: Tensor
    proposals: Tensor


def slow_detect(state: State, image: Tensor, vit_heads: int, groups: int) -> SlowDetections:
    """Detects in one image.

    Args:
        state: Tensors by detrex's names.
        image: Normalised image, shape (3, H, W).
        vit_heads: Heads of the backbone.
        groups: Groups of the GN behind the pyramid.

    Returns:
        The detections, in fp64.
    """
    state = {name: tensor.double() for name, tensor in state.items()}
    levels = slow_pyramid(state, slow_backbone(state, image.double(), vit_heads), groups)
    memory, grids = slow_encoder(state, levels)
    features, boxes = slow_proposals(state, memory, grids)
    last = _count(state, 'transformer.decoder.layers.{}.norms.0.weight')
    scores = _linear(state, f'class_embed.{last}', features)
    boxes = _mlp(state, f'bbox_embed.{last}.layers', features) + boxes
    chosen = scores.amax(1).argsort(descending=True)[: len(state['transformer.tgt_embed.weight'])]
    proposals = boxes[chosen].sigmoid()
    logits, boxes = _decoder(state, memory, grids, proposals)
    height, width = image.shape[-2:]
    cx, cy, w, h = (boxes * boxes.new_tensor([width, height, width, height])).unbind(1)
    corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
    return SlowDetections(logits, corners, proposals)


def slow_backbone(state: State, image: Tensor, heads: int) -> Tensor:
    """Computes the map (C, rows, cols) of the last block, without a norm behind it."""
    vit = {
        name.removeprefix('backbone.net.timm_model.model.'): tensor
        for name, tensor in state.items()
        if name.startswith('backbone.net.')
    }
    kernel = vit['patch_embed.proj.weight']
    patch = kernel.shape[-1]
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % patch, 0, -height % patch))
    tokens = F.conv2d(image[None], kernel, vit['patch_embed.proj.bias'], stride=patch)[0]
    rows, cols = tokens.shape[-2:]
    positions = vit['pos_embed'][0]
    side = math.isqrt(len(positions) - 1)
    grid = positions[1:].T.unflatten(1, (side, side))[None]
    grid = F.interpolate(grid, size=(rows, cols), mode='bicubic', antialias=True)[0]
    x = torch.cat((vit['cls_token'][0] + positions[:1], (tokens + grid).flatten(1).T))
    for i in range(_count(vit, 'blocks.{}.norm1.weight')):
        block = f'blocks.{i}.'
        q, k, v = (
            _linear(vit, f'{block}attn.qkv', _layer_norm(vit, f'{block}norm1', x, 1e-6))
            .unflatten(1, (3, heads, -1))
            .unbind(1)
        )
        x = x + _linear(vit, f'{block}attn.proj', _attend(q, k, v)) * vit[f'{block}ls1.gamma']
        hidden = _linear(vit, f'{block}mlp.fc1', _layer_norm(vit, f'{block}norm2', x, 1e-6))
        x = x + _linear(vit, f'{block}mlp.fc2', F.gelu(hidden)) * vit[f'{block}ls2.gamma']
    return x[1:].T.unflatten(1, (rows, cols))


def slow_pyramid(state: State, features: Tensor, groups: int) -> list[Tensor]:
    """Makes four levels (C, rows, cols): twice the cells, as many, half of them, a quarter."""
    levels = []
    for level, first in ((3, 1), (4, 0), (5, 1)):
        name = f'backbone.simfp_{level}'
        x = features[None]
        if level == 3:
            x = F.conv_transpose2d(x, state[f'{name}.0.weight'], state[f'{name}.0.bias'], stride=2)
        if level == 5:
            x = F.max_pool2d(x, 2)  # drops an odd last row and column
        for layer in (first, first + 1):
            kernel = state[f'{name}.{layer}.weight']
            x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
            x = _layer_norm(state, f'{name}.{layer}.norm', x.movedim(1, -1), 1e-6).movedim(-1, 1)
        levels.append(x)
    levels.append(levels[-1][..., ::2, ::2])
    mapped = []
    for i, level in enumerate(levels):
        name = f'neck.convs.{i}.'
        x = F.conv2d(level, state[f'{name}conv.weight'], state[f'{name}conv.bias'])[0]
        values = x.unflatten(0, (groups, -1)).flatten(1)
        mean = values.mean(1, keepdim=True)
        deviation = (values.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = ((values - mean) / deviation).view(x.shape)
        weight, bias = state[f'{name}norm.weight'], state[f'{name}norm.bias']
        mapped.append(x * weight[:, None, None] + bias[:, None, None])
    return mapped


def slow_encoder(state: State, levels: list[Tensor]) -> tuple[Tensor, Grids]:
    """Computes the memory (cells, C) of all levels, and the rows and columns of each."""
    grids: Grids = [tuple(level.shape[-2:]) for level in levels]
    channels = len(levels[0])
    cells, positions, centers = [], [], []
    for index, (rows, cols) in enumerate(grids):
        for row in range(rows):
            # Counted from 1 and moved by half a cell, over the number of cells, as an angle.
            y = (row + 1 - 0.5) / (rows + 1e-6) * 2 * math.pi
            for col in range(cols):
                x = (col + 1 - 0.5) / (cols + 1e-6) * 2 * math.pi
                positions.append((y, x))
                centers.append(((col + 0.5) / cols, (row + 0.5) / rows))
                cells.append(index)
    angles = torch.tensor(positions, dtype=torch.float64)
    pos = torch.cat([_sines(angles[:, i], channels // 2) for i in (0, 1)], 1)
    pos = pos + state['transformer.level_embeds'][torch.tensor(cells)]
    points = torch.tensor(centers, dtype=torch.float64)[:, None].expand(-1, len(grids), -1)
    memory = torch.cat([level.flatten(1).T for level in levels])
    for i in range(_count(state, 'transformer.encoder.layers.{}.norms.0.weight')):
        layer = f'transformer.encoder.layers.{i}.'
        attended = _deform(state, f'{layer}attentions.0.', memory + pos, memory, points, grids)
        memory = _layer_norm(state, f'{layer}norms.0', memory + attended)
        memory = _layer_norm(state, f'{layer}norms.1', memory + _ffn(state, layer, memory))
    return memory, grids


def slow_proposals(state: State, memory: Tensor, grids: Grids) -> tuple[Tensor, Tensor]:
    """Returns the features of the proposals (cells, C) and the logits of their boxes (cells, 4).

    Where a number of the box is not within 0.01 and 0.99, the feature is that of zero and the
    logits are infinite.
    """
    features, boxes = [], []
    cell = 0
    for level, (rows, cols) in enumerate(grids):
        for row in range(rows):
            for col in range(cols):
                side = 0.05 * 2**level
                box = [(col + 0.5) / cols, (row + 0.5) / rows, side, side]
                inside = all(0.01 < number < 0.99 for number in box)
                boxes.append([math.log(n / (1 - n)) if inside else math.inf for n in box])
                features.append(memory[cell] * inside)
                cell += 1
    projected = _linear(state, 'transformer.enc_output', torch.stack(features))
    features = _layer_norm(state, 'transformer.enc_output_norm', projected)
    return features, torch.tensor(boxes, dtype=torch.float64)


def _decoder(
    state: State, memory: Tensor, grids: Grids, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns class logits and boxes (cx, cy, w, h) relative to the image."""
    name = 'transformer.decoder.'
    x = state['transformer.tgt_embed.weight']
    channels = x.shape[1]
    num_layers = _count(state, name + 'layers.{}.norms.0.weight')
    for i in range(num_layers):
        layer = f'{name}layers.{i}.'
        # cy comes before cx.
        sines = [_sines(reference[:, j] * 2 * math.pi, channels // 2) for j in (1, 0, 2, 3)]
        pos = _mlp(state, f'{name}ref_point_head.layers', torch.cat(sines, 1))
        attention = f'{layer}attentions.0.attn.'
        weights = state[f'{attention}in_proj_weight'].chunk(3)
        biases = state[f'{attention}in_proj_bias'].chunk(3)
        q, k, v = (
            F.linear(value, w, b).unflatten(1, (8, -1))
            for value, w, b in zip((x + pos, x + pos, x), weights, biases, strict=True)
        )
        attended = _linear(state, f'{attention}out_proj', _attend(q, k, v))
        x = _layer_norm(state, f'{layer}norms.0', x + attended)
        points = reference[:, None].expand(-1, len(grids), -1)
        attended = _deform(state, f'{layer}attentions.1.', x + pos, memory, points, grids)
        x = _layer_norm(state, f'{layer}norms.1', x + attended)
        x = _layer_norm(state, f'{layer}norms.2', x + _ffn(state, layer, x))
        before = reference
        offset = _mlp(state, f'bbox_embed.{i}.layers', x)
        reference = (offset + _inverse_sigmoid(reference)).sigmoid()
    x = _layer_norm(state, f'{name}norm', x)
    last = num_layers - 1
    boxes = _mlp(state, f'bbox_embed.{last}.layers', x) + _inverse_sigmoid(before)
    return _linear(state, f'class_embed.{last}', x), boxes.sigmoid()


def _deform(
    state: State, name: str, query: Tensor, memory: Tensor, reference: Tensor, grids: Grids
) -> Tensor:
    """Deformable attention with 8 heads and 4 points around points (x, y) or boxes."""
    heads, num_points = 8, 4
    values = _linear(state, f'{name}value_proj', memory).unflatten(1, (heads, -1))
    shape = (heads, len(grids), num_points)
    offsets = _linear(state, f'{name}sampling_offsets', query).unflatten(1, (*shape, 2))
    logits = _linear(state, f'{name}attention_weights', query).unflatten(1, (heads, -1))
    weights = logits.softmax(-1).unflatten(-1, shape[1:])
    out = 0
    start = 0
    for level, (rows, cols) in enumerate(grids):
        of_level = values[start : start + rows * cols]
        start += rows * cols
        for point in range(num_points):
            offset = offsets[:, :, level, point]
            center = reference[:, None, level, :2]
            if reference.shape[-1] == 2:
                location = center + offset / offset.new_tensor([cols, rows])
            else:
                location = center + offset / num_points * reference[:, None, level, 2:] * 0.5
            sampled = _bilinear(of_level, rows, cols, location)
            out = out + sampled * weights[:, :, level, point, None]
    return _linear(state, f'{name}output_proj', out.flatten(1))


def _bilinear(cells: Tensor, rows: int, cols: int, location: Tensor) -> Tensor:
    """Samples cells (rows * cols, heads, D) at (x, y) of shape (Q, heads, 2); zero outside."""
    x, y = location[..., 0] * cols - 0.5, location[..., 1] * rows - 0.5
    head = torch.arange(cells.shape[1])
    out = 0
    for row in (y.floor(), y.floor() + 1):
        for col in (x.floor(), x.floor() + 1):
            inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
            share = (1 - (y - row).abs()) * (1 - (x - col).abs()) * inside
            index = (row.clamp(0, rows - 1) * cols + col.clamp(0, cols - 1)).long()
            out = out + share[..., None] * cells[index, head]
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of tensors (N, heads, D); returns (N, heads * D)."""
    scores = torch.einsum('qhd,khd->hqk', q, k) / math.sqrt(q.shape[-1])
    return torch.einsum('hqk,khd->qhd', scores.softmax(-1), v).flatten(1)


def _sines(angles: Tensor, channels: int) -> Tensor:
    """Sines in even and cosines in odd channels, (N,) -> (N, channels); temperature 10000."""
    columns = []
    for channel in range(channels):
        scaled = angles / 10000 ** (2 * (channel // 2) / channels)
        columns.append(scaled.cos() if channel % 2 else scaled.sin())
    return torch.stack(columns, 1)


def _inverse_sigmoid(x: Tensor) -> Tensor:
    return torch.log(x.clamp(min=1e-3) / (1 - x).clamp(min=1e-3))


def _mlp(state: State, name: str, x: Tensor) -> Tensor:
    count = _count(state, name + '.{}.weight')
    for i in range(count):
        x = _linear(state, f'{name}.{i}', x)
        if i + 1 < count:
            x = x.relu()
    return x


def _ffn(state: State, layer: str, x: Tensor) -> Tensor:
    hidden = _linear(state, f'{layer}ffns.0.layers.0.0', x).relu()
    return _linear(state, f'{layer}ffns.0.layers.1', hidden)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f'{name}.weight'], state[f'{name}.bias'])


def _layer_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    weight = state[f'{name}.weight']
    return F.layer_norm(x, weight.shape, weight, state[f'{name}.bias'], eps)


def _count(state: State, pattern: str) -> int:
    """Counts how many numbers, from 0, give a name."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count
