"""Patch embedding and the resampling of its kernel to another patch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def extract_patches(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images into patches.

    Args:
        images: Shape (B, C, H, W); padded with zeros at the right and the bottom up to a multiple
            of the patch size, never cropped.
        patch_size: Side p of a patch in pixels.

    Returns:
        Patches of shape (B, ceil(H / p), ceil(W / p), C * p * p), each flattened like the kernel of
        a convolution: channel, row, column.
    """
    batch, channels, height, width = images.shape
    p = patch_size
    images = F.pad(images, (0, -width % p, 0, -height % p))
    rows, cols = images.shape[2] // p, images.shape[3] // p
    patches = images.view(batch, channels, rows, p, cols, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, rows, cols, channels * p * p)


class PatchEmbed(nn.Module):
    """Embeds patches linearly, with the parameters of a strided convolution.

    Args:
        patch_size: Side of a patch in pixels.
        in_channels: Image channels.
        dim: Channels of a token.
    """

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        # Holds the parameters under their published names and shapes.
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Embeds patches (..., in_channels * p * p) as tokens (..., C)."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def resample_patch_kernel(kernel: Tensor, patch_size: int) -> Tensor:
    """Resamples the kernel of a patch embedding by the pseudo-inverse method.

    The new kernel responds to a resized patch as the old one responds to the patch (FlexiViT,
    arXiv:2212.08013, section 3.4). Resizing the kernel like an image would instead scale the
    response to a constant image by the ratio of the areas, 1.31 from 14 to 16 pixels. Here that
    response is kept exactly, for smaller patches too.

    Args:
        kernel: Shape (C_out, C_in, p, p).
        patch_size: New side q in pixels.

    Returns:
        Kernel of shape (C_out, C_in, q, q) in the dtype of the input.
    """
    old = kernel.shape[-1]
    if old == patch_size:
        return kernel
    # Row i is the i-th unit patch, resized: resize(x) = units.T @ x for a flattened patch x.
    units = F.interpolate(
        torch.eye(old * old, dtype=torch.float64).view(old * old, 1, old, old),
        size=(patch_size, patch_size),
        mode='bicubic',
        antialias=True,
    ).flatten(1)
    # <new, units.T @ x> = <kernel, x> for all x wants units @ new = kernel.
    inverse = torch.linalg.pinv(units)
    flat = kernel.detach().double().cpu().flatten(2)
    resampled = flat @ inverse.T
    # A smaller kernel has only a least-squares solution. Of the kernels that keep the response to a
    # constant image, take the closest one.
    direction = inverse @ inverse.sum(0)
    lost = flat.sum(-1, keepdim=True) - resampled.sum(-1, keepdim=True)
    resampled = (resampled + lost * direction / direction.sum()).to(kernel)
    return resampled.view(*kernel.shape[:2], patch_size, patch_size)
