"""Pictures of the tokens of a ViT: their principal components, and what CLS attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..drawing.figures import save_figure
from ..errors import InputError
from ..layers.inspection import prefix_attention
from ..layers.tokens import TokenLayout
from ..models import PackedViT


@dataclass(frozen=True)
class ImageFeatures:
    """Tokens of one image.

    Attributes:
        tokens: Patch tokens after the final normalisation, row-major, shape (rows, cols, C).
        attention: Attention of the CLS token to the patches in the last block, shape (heads, rows,
            cols). Together with ``prefix_attention``, that of each head adds up to 1.
        prefix_attention: Attention of the CLS token to itself and the registers, shape (heads,).
    """

    tokens: Tensor
    attention: Tensor
    prefix_attention: Tensor


@torch.no_grad()
def extract_features(backbone: PackedViT, images: Sequence[Tensor]) -> list[ImageFeatures]:
    """Runs a backbone on images of any sizes.

    Args:
        backbone: The backbone; it stays in its mode, training or evaluation.
        images: Normalised images of shape (3, H, W), on the device of the backbone.

    Raises:
        InputError: If the last block attends within windows, so that CLS attends to no patch.
    """
    last = backbone.blocks[-1]
    if last.windowed:
        raise InputError(
            'the last block attends within windows, so its CLS token attends to no patch; choose '
            'a backbone whose last block is global'
        )
    # Arguments and result of the last block.
    seen: list[tuple] = []
    hook = last.register_forward_hook(lambda block, args, out: seen.append((*args[:2], out)))
    training = backbone.training
    backbone.eval()
    try:
        sizes = [image.shape[1:] for image in images]
        canvas = images[0].new_zeros(len(images), 3, *np.max(sizes, axis=0))
        for place, image in zip(canvas, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        backbone(canvas, [tuple(size) for size in sizes])
    finally:
        backbone.train(training)
        hook.remove()
    layout: TokenLayout
    ((x, layout, out),) = seen
    # A frozen backbone may hold its weights in a different precision from its output.
    normed = last.norm1(x.to(last.norm1.weight.dtype))
    weights = prefix_attention(last.attn, normed, layout, backbone.rotary_table(layout))
    normalised = backbone.norm(out.to(backbone.norm.weight.dtype))
    features = []
    for image, (stream, grid) in enumerate(
        zip(normalised.split(layout.lengths), layout.grids, strict=True)
    ):
        prefix, patches = weights[image].split((layout.num_prefix, grid[0] * grid[1]), dim=1)
        tokens = layout.to_row_major(stream[layout.num_prefix :], image)
        features.append(
            ImageFeatures(
                tokens.view(*grid, -1).float().cpu(),
                patches.view(-1, *grid).cpu(),
                prefix.sum(1).cpu(),
            )
        )
    return features


def principal_components(tokens: np.ndarray, count: int = 3) -> np.ndarray:
    """Projects tokens on the directions in which they vary most.

    Args:
        tokens: Shape (N, C), N at least 2.
        count: Number of components.

    Returns:
        The projections, shape (N, count), the largest component first; missing components are
        zero. A decomposition leaves the signs open: here the mean of the cubes is positive.
    """
    centred = np.asarray(tokens, dtype=np.float64)
    centred = centred - centred.mean(0)
    # The eigenvectors of the C x C covariance cost less than a decomposition of all tokens.
    _, vectors = np.linalg.eigh(centred.T @ centred)
    projected = centred @ vectors[:, ::-1][:, :count]
    projected *= np.where((projected**3).sum(0) < 0, -1.0, 1.0)
    missing = count - projected.shape[1]
    return np.pad(projected, ((0, 0), (0, missing)))


def pca_pictures(features: Sequence[ImageFeatures]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Colours tokens as in the DINOv2 paper (arXiv:2304.07193, figure 1).

    The first component of all tokens of all images separates foreground from background; the
    foreground is the side with fewer tokens at the borders of the images. The first three
    components of all foreground tokens become red, green and blue, so that the same parts have the
    same colours in different images.

    Returns:
        For each image the colours of all tokens, in 0..1, shape (rows, cols, 3), and the colours
        of the foreground on black.
    """
    grids = [f.tokens.shape[:2] for f in features]
    stacked = np.concatenate([f.tokens.flatten(0, 1).numpy() for f in features])
    everything = principal_components(stacked)
    border = np.concatenate([_border(grid).ravel() for grid in grids])
    foreground = everything[:, 0] > _valley(everything[:, 0])
    if foreground[border].mean() > 0.5:
        foreground = ~foreground
    colors = np.zeros_like(everything)
    if foreground.sum() > 1:
        colors[foreground] = _to_unit(principal_components(stacked[foreground]))
    sizes = [rows * cols for rows, cols in grids]
    ends = np.cumsum(sizes)[:-1]

    def split(values: np.ndarray) -> list[np.ndarray]:
        parts = np.split(values, ends)
        return [part.reshape(*grid, 3) for part, grid in zip(parts, grids, strict=True)]

    return split(_to_unit(everything)), split(colors)


def _border(grid: tuple[int, int]) -> np.ndarray:
    mask = np.ones(grid, dtype=bool)
    mask[1:-1, 1:-1] = False
    return mask


def _valley(values: np.ndarray) -> float:
    """Returns Otsu's threshold: the cut with the largest variance between both sides."""
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    total = ordered.sum()
    other = len(ordered) - count
    between = count * other * (below / count - (total - below) / other) ** 2
    best = int(between.argmax())
    return float(ordered[best : best + 2].mean())


def _to_unit(values: np.ndarray) -> np.ndarray:
    """Scales each column to 0..1, clipping the outermost percent at both ends."""
    low, high = np.percentile(values, (1, 99), axis=0)
    return np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)


def draw_features(
    pictures: Sequence[np.ndarray],
    features: Sequence[ImageFeatures],
    path: str | Path,
    title: str,
) -> None:
    """Draws a row for each image: the image, its components and the attention of each head.

    Args:
        pictures: The images, RGB in 0..255, shape (H, W, 3).
        features: The features of the images.
        path: Picture file; its folder is created.
        title: Heading, which says whether weights were loaded.
    """
    everything, foreground = pca_pictures(features)
    num_heads = len(features[0].attention)
    columns = 4 + num_heads
    figure = Figure(figsize=(1.9 * columns, 2.1 * len(pictures) + 0.6), layout='constrained')
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    for row, picture, feature, first, second in zip(
        grid, pictures, features, everything, foreground, strict=True
    ):
        heads = feature.attention.numpy()
        shown = [picture, first, second, heads.mean(0), *heads]
        for axes, content in zip(row, shown, strict=True):
            # One token may get most of the attention; the others should be visible too.
            top = None if content.ndim == 3 else float(np.percentile(content, 99))
            axes.imshow(content, interpolation='nearest', cmap='inferno', vmin=0, vmax=top)
            axes.set_axis_off()
    names = ['image', 'PCA, all tokens', 'PCA, foreground', 'CLS attention, mean']
    for axes, name in zip(grid[0], names + [f'head {i}' for i in range(num_heads)], strict=True):
        axes.set_title(name, fontsize=8)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save_figure(figure, path, dpi=110)
