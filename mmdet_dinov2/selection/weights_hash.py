"""A name for what depends on the weights of a model."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_hash(model: nn.Module, *settings: object) -> str:
    """Returns a hash of a model, its weights and settings, 16 hexadecimal digits.

    Args:
        model: The model.
        *settings: What else counts, by its ``repr``.
    """
    digest = hashlib.blake2b(repr((str(model), *settings)).encode(), digest_size=8)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy())
    return digest.hexdigest()
