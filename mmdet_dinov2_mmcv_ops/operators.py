"""Operators under the names and with the arguments of mmcv's Python code.

mmcv's functions pass tensors to be filled and do not track gradients: the backward functions here
compute the result again and let autograd differentiate it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import ops

from . import missing_operator


def get_compiler_version() -> str:
    return 'not available'


def get_compiling_cuda_version() -> str:
    return 'not available'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    # With an offset, sides are x2 - x1 + offset: those of boxes that end later.
    shift = boxes.new_tensor([0, 0, offset, offset])
    return ops.nms(boxes + shift, scores, iou_threshold)


# ------------------------------------------------------------------- regions


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **options) -> None:
    output.copy_(_align(**options)(input, rois.to(input)))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options) -> None:
    align = _align(**options)
    # The result is linear in the input, so any input gives the gradient.
    _fill((grad_input,), lambda x: align(x, rois.to(x)), (grad_input,), grad_output)


def _align(
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Callable[[Tensor, Tensor], Tensor]:
    if pool_mode == 0:
        missing_operator("roi_align with pool_mode='max'")
    size = (aligned_height, aligned_width)
    return lambda x, rois: ops.roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned)


def roi_pool_forward(
    input, rois, output, argmax, pooled_height, pooled_width, spatial_scale
) -> None:
    # `torchvision.ops.roi_pool` does not return the places of the maxima.
    result, indices = torch.ops.torchvision.roi_pool(
        input, rois.to(input), spatial_scale, pooled_height, pooled_width
    )
    output.copy_(result)
    argmax.copy_(indices)


def roi_pool_backward(
    grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale
) -> None:
    # Private in torchvision: the forward pass was run, its input is gone.
    grad = torch.ops.torchvision._roi_pool_backward(
        grad_output, rois.to(grad_output), argmax, spatial_scale, pooled_height, pooled_width,
        *grad_input.shape,
    )  # fmt: skip
    grad_input.copy_(grad)


# -------------------------------------------------------- deformable convolution


def deform_conv_forward(input, weight, offset, output, columns, ones, **options) -> None:
    output.copy_(_convolution(**options)(input, offset, weight))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, **options
) -> None:
    convolve = _convolution(**options)
    _fill(
        (grad_input, grad_offset),
        lambda x, o: convolve(x, o, weight),
        (input, offset),
        grad_output,
    )


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, scale, **options
) -> None:
    convolve = _convolution(**options)
    # The result is linear in the weight, so any weight gives the gradient.
    _fill((grad_weight,), lambda w: convolve(input, offset, w), (grad_weight,), grad_output)


def _convolution(
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    # torchvision takes groups from the shapes of the weight and of the offsets.
    return lambda x, offset, weight: ops.deform_conv2d(
        x, offset, weight, None, (dH, dW), (padH, padW), (dilationH, dilationW)
    )


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, **options
) -> None:
    convolve = _modulated_convolution(**options)
    output.copy_(convolve(input, offset, mask, weight, bias if options['with_bias'] else None))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias,
    grad_offset, grad_mask, grad_output, **options,
) -> None:  # fmt: skip
    inputs = (input, offset, mask, weight)
    targets = (grad_input, grad_offset, grad_mask, grad_weight)
    if options['with_bias']:
        inputs, targets = (*inputs, bias), (*targets, grad_bias)
    _fill(targets, _modulated_convolution(**options), inputs, grad_output)


def _modulated_convolution(
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
    deformable_group, with_bias,
) -> Callable[..., Tensor]:  # fmt: skip
    def convolve(x, offset, mask, weight, bias=None) -> Tensor:
        stride, padding = (stride_h, stride_w), (pad_h, pad_w)
        dilation = (dilation_h, dilation_w)
        return ops.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    return convolve


# ----------------------------------------------------------------- focal loss


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha) -> None:
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha) -> None:
    _fill(
        (grad_input,),
        lambda x: _focal_loss(x, target, weight, gamma, alpha),
        (input,),
        torch.ones_like(input),
    )


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma, alpha) -> Tensor:
    # The class after the last one is the background.
    classes = logits.shape[1]
    wanted = F.one_hot(target.long(), classes + 1)[:, :classes].to(logits)
    loss = ops.sigmoid_focal_loss(logits, wanted, alpha, gamma)
    if weight.numel():
        loss = loss * torch.cat((weight, weight.new_ones(1)))[target.long()][:, None]
    return loss


# --------------------------------------------------------- deformable attention


def ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step) -> Tensor:
    return _attend(shapes)(value, locations, weights)


def ms_deform_attn_backward(
    value, shapes, starts, locations, weights, grad_output, grad_value, grad_locations,
    grad_weights, im2col_step,
) -> None:  # fmt: skip
    targets = (grad_value, grad_locations, grad_weights)
    _fill(targets, _attend(shapes), (value, locations, weights), grad_output)


def _attend(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    # mmcv's module imports this one while it is imported itself.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(
        value, shapes, locations, weights
    )


def _fill(
    targets: tuple[Tensor, ...],
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    grad_output: Tensor,
) -> None:
    """Writes the gradients of a function's inputs into ``targets``."""
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        grads = torch.autograd.grad(function(*leaves), leaves, grad_output)
    for target, grad in zip(targets, grads, strict=True):
        target.copy_(grad)
