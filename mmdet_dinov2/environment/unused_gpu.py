"""Notices a GPU that PyTorch cannot use, before hours are spent on the CPU instead."""

from __future__ import annotations

import os

import torch

# The first GPU of NVIDIA's driver. A container that was given none does not have it.
_DEVICE = '/dev/nvidia0'
# Who sets it has chosen what PyTorch sees; empty, it hides all GPUs.
_VARIABLE = 'CUDA_VISIBLE_DEVICES'


def unused_gpu() -> str | None:
    """Returns why a GPU of this machine is not used and what to do; None if there is no such GPU.

    A driver that is too old for PyTorch's version of CUDA makes ``torch.cuda.is_available()``
    False, with no more than a warning.
    """
    if _VARIABLE in os.environ or not os.path.exists(_DEVICE) or torch.cuda.is_available():
        return None
    cuda = torch.version.cuda
    built = f'for CUDA {cuda}' if cuda else 'without CUDA'
    remedy = 'nvidia-smi says which CUDA the driver knows' if cuda else 'mmdet_dinov2 env says how'
    return (
        f'this machine has an NVIDIA GPU, but torch {torch.__version__}, built {built}, cannot use '
        f'it; install a driver and a torch that fit each other ({remedy}), or set {_VARIABLE}= to '
        'run on the CPU'
    )
