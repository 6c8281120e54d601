"""Checks of the kernels of a device against PyTorch on the CPU, with JSON in and out."""

from __future__ import annotations

import copy

import torch
from mmdet.models.detectors import DINO
from torch import Tensor, nn

from ..layers import Segments, segment_attention
from .detectors import DetectorSpec, autocast, build_detector
from .workloads import random_batch


def segment_attention_error(device: str, lengths: list[int], dtype: str, seed: int) -> dict:
    """Compares attention over segments on a device with fp32 on the CPU, gradients included.

    Args:
        device: The device.
        lengths: Lengths of the segments.
        dtype: Name of the dtype on the device.
        seed: Seed of the tokens.

    Returns:
        ``forward`` and ``backward``: the largest differences, relative to the largest values.
    """
    torch.manual_seed(seed)
    segments = Segments.from_lengths(lengths)
    qkv = torch.randn(3, sum(lengths), 6, 64)
    weight = torch.randn(sum(lengths), 6, 64)
    results = []
    for place, kind in (('cpu', torch.float32), (device, getattr(torch, dtype))):
        leaf = qkv.to(place, kind).requires_grad_()
        out = segment_attention(*leaf.unbind(0), segments)
        (grad,) = torch.autograd.grad((out * weight.to(out)).sum(), leaf)
        results.append((out, grad))
    (out, grad), (device_out, device_grad) = results
    return dict(forward=_error(device_out, out), backward=_error(device_grad, grad))


def encoder_error(spec: dict, size: list[int]) -> dict:
    """Compares the encoder on the device of the spec with fp32 on the CPU, gradients included.

    The encoder runs the deformable attention that the detector chooses on each device. If rounding
    moves a sampling point to the other side of a cell's centre, the gradient of its query jumps, so
    gradients are compared by their norm and not by the largest difference.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        size: Height and width of an image in pixels.

    Returns:
        ``forward``: the largest difference of the memory, relative to the largest value.
        ``backward``: the norm of the difference of the gradients of the image features, relative
        to the norm of the gradients.
    """
    detector = DetectorSpec(**spec)
    on_cpu = DetectorSpec(**{**spec, 'device': 'cpu', 'precision': 'fp32'})
    model = build_detector(on_cpu).eval()
    _scatter_samples(model, detector.seed)
    height, width = size
    strides = model.strides
    canvas = [-(-side // model.size_divisor) * model.size_divisor for side in size]
    torch.manual_seed(detector.seed)
    feats = [
        torch.randn(1, model.embed_dims, *(int(side / stride) for side in canvas))
        for stride in strides
    ]
    weights = None
    results = []
    for place in (on_cpu, detector):
        moved = copy.deepcopy(model).to(place.device)
        leaves = [feat.to(place.device).requires_grad_() for feat in feats]
        with autocast(place):
            inputs, _ = moved.pre_transformer(leaves, [(height, width)])
            memory = moved.forward_encoder(**inputs)['memory'].float()
        weights = torch.randn(memory.shape) if weights is None else weights
        grads = torch.autograd.grad((memory * weights.to(memory)).sum(), leaves)
        results.append((memory, torch.cat([grad.flatten() for grad in grads])))
    (memory, grad), (device_memory, device_grad) = results
    difference = (device_grad.cpu() - grad).norm() / grad.norm()
    return dict(forward=_error(device_memory, memory), backward=difference.item())


def prediction_error(spec: dict, sizes: list[list[int]], seed: int) -> dict:
    """Compares the features of images in a batch on a device with those of each image alone.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        sizes: Sizes of the images of the batch.
        seed: Seed of the images.

    Returns:
        ``forward``: the largest difference of the pyramid, relative to the largest value.
    """
    detector = DetectorSpec(**spec)
    model = build_detector(detector).eval()
    batch = random_batch([tuple(size) for size in sizes], model.bbox_head.num_classes, seed)
    data = model.data_preprocessor(batch, training=False)
    shapes = [tuple(size) for size in sizes]
    with torch.no_grad(), autocast(detector):
        together = model.extract_feat(data['inputs'], shapes)
        worst = 0.0
        for i, (height, width) in enumerate(shapes):
            alone = model.extract_feat(data['inputs'][i : i + 1, :, :height, :width])
            for level, expected in zip(together, alone, strict=True):
                rows, cols = expected.shape[-2:]
                worst = max(worst, _error(level[i : i + 1, :, :rows, :cols], expected))
    return dict(forward=worst)


def _scatter_samples(model: DINO, seed: int) -> None:
    """Gives every query different sampling offsets and weights, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.encoder.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(
            ('sampling_offsets', 'attention_weights')
        ):
            nn.init.normal_(module.weight, std=0.05, generator=generator)


def _error(value: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the largest expected value."""
    value, expected = value.detach().float().cpu(), expected.detach().float().cpu()
    return ((value - expected).abs().max() / expected.abs().max()).item()
