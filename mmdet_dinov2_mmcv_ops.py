"""Operators of mmcv without a compiler, served by torchvision and PyTorch.

mmcv, built where torch is not visible, is pure Python: only the compiled module ``mmcv._ext`` is
missing, and `import mmcv.ops`, and with it mmdet, fails. Importing this module makes Python find a
stand-in for it. Operators that torchvision has with the same meaning work; every other one raises
an error with its name and the command that compiles it. A compiled ``mmcv._ext`` is always found
first.

The module stands beside the package, needs the standard library alone until mmcv asks for its
operators, and is imported by a ``.pth`` file of the environment: mmcv has to find the stand-in
also where mmdet is imported before this package, as mmdet's own tools do.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = 'mmcv._ext'
COMPILE_COMMAND = 'make env MMCV_OPS=cpu (or cuda)'


class StandInFinder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` where no compiled one is."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(NAME, self, origin=__file__) if fullname == NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(operators())


class StandIn(ModuleType):
    """A module in which every name that it does not have is an operator that raises."""

    is_stand_in = True

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError(
                f"mmcv's operator {name!r} is not compiled in this environment; compile the "
                f'operators of mmcv with: {COMPILE_COMMAND}'
            )

        return missing


def write_pth() -> None:
    """Lets every Python of this environment import this module when it starts."""
    path = Path(sysconfig.get_path('purelib')) / f'{__name__}.pth'
    # Nothing happens where the module is gone: an error would be printed at each start.
    path.write_text(
        f"import importlib.util; importlib.util.find_spec('{__name__}') and "
        f"__import__('{__name__}')\n"
    )


def install() -> None:
    """Lets Python find the stand-in after all other places were searched."""
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())


def operators() -> dict[str, Callable]:
    """The operators that work, under mmcv's names and with the arguments of its Python code."""
    import torch
    import torch.nn.functional as F
    from torchvision import ops

    def gradients(
        function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad_output: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients of the inputs, by computing the result again."""
        with torch.enable_grad():
            leaves = tuple(tensor.detach().requires_grad_() for tensor in inputs)
            return torch.autograd.grad(function(*leaves), leaves, grad_output)

    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        # With an offset, sides are x2 - x1 + offset: those of boxes that end later.
        shift = boxes.new_tensor([0, 0, offset, offset])
        return ops.nms(boxes + shift, scores, iou_threshold)

    def align(
        aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
        pool_mode: int, aligned: bool,
    ) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
        if pool_mode == 0:
            StandIn(NAME).__getattr__("roi_align with pool_mode='max'")()
        size = (aligned_height, aligned_width)
        return lambda x, rois: ops.roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned)

    def roi_align_forward(input, rois, output, argmax_y, argmax_x, **options) -> None:
        output.copy_(align(**options)(input, rois.to(input)))

    def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options) -> None:
        function = align(**options)
        # The gradient does not depend on the values of the input.
        (grad,) = gradients(lambda x: function(x, rois.to(x)), (grad_input,), grad_output)
        grad_input.copy_(grad)

    def roi_pool_forward(
        input, rois, output, argmax, pooled_height, pooled_width, spatial_scale
    ) -> None:
        result, indices = torch.ops.torchvision.roi_pool(
            input, rois.to(input), spatial_scale, pooled_height, pooled_width
        )
        output.copy_(result)
        argmax.copy_(indices)

    def roi_pool_backward(
        grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale
    ) -> None:
        grad_input.copy_(
            torch.ops.torchvision._roi_pool_backward(
                grad_output, rois.to(grad_output), argmax, spatial_scale, pooled_height,
                pooled_width, *grad_input.shape,
            )
        )  # fmt: skip

    def plain_convolution(
        kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step,
        scale=1,
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:  # fmt: skip
        # Groups follow from the shapes of the weight and of the offsets.
        return lambda x, offset, weight: ops.deform_conv2d(
            x, offset, weight, None, (dH, dW), (padH, padW), (dilationH, dilationW)
        )

    def deform_conv_forward(input, weight, offset, output, columns, ones, **options) -> None:
        output.copy_(plain_convolution(**options)(input, offset, weight))

    def deform_conv_backward_input(
        input, offset, grad_output, grad_input, grad_offset, weight, columns, **options
    ) -> None:
        function = plain_convolution(**options)
        grads = gradients(lambda x, o: function(x, o, weight), (input, offset), grad_output)
        grad_input.copy_(grads[0])
        grad_offset.copy_(grads[1])

    def deform_conv_backward_parameters(
        input, offset, grad_output, grad_weight, columns, ones, **options
    ) -> None:
        function = plain_convolution(**options)
        (grad,) = gradients(lambda w: function(input, offset, w), (weight_like(grad_weight),),
                            grad_output)  # fmt: skip
        grad_weight.copy_(grad)

    def weight_like(grad_weight: Tensor) -> Tensor:
        """Any weight: the result is linear in it, so its gradient does not depend on it."""
        return torch.zeros_like(grad_weight)

    def modulated_convolution(
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
        deformable_group, with_bias,
    ) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:  # fmt: skip
        return lambda x, offset, mask, weight, bias: ops.deform_conv2d(
            x, offset, weight, bias if with_bias else None, (stride_h, stride_w), (pad_h, pad_w),
            (dilation_h, dilation_w), mask,
        )  # fmt: skip

    def modulated_deform_conv_forward(
        input, weight, bias, ones, offset, mask, output, columns, **options
    ) -> None:
        output.copy_(modulated_convolution(**options)(input, offset, mask, weight, bias))

    def modulated_deform_conv_backward(
        input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias,
        grad_offset, grad_mask, grad_output, **options,
    ) -> None:  # fmt: skip
        function = modulated_convolution(**options)
        inputs = [input, offset, mask, weight]
        targets = [grad_input, grad_offset, grad_mask, grad_weight]
        if options['with_bias']:
            inputs.append(bias)
            targets.append(grad_bias)
            grads = gradients(function, tuple(inputs), grad_output)
        else:
            grads = gradients(lambda *tensors: function(*tensors, None), tuple(inputs), grad_output)
        for target, grad in zip(targets, grads, strict=True):
            target.copy_(grad)

    def focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma, alpha) -> Tensor:
        # The class after the last one is the background.
        classes = logits.shape[1]
        wanted = F.one_hot(target.long().clamp(max=classes), classes + 1)[:, :classes].to(logits)
        loss = ops.sigmoid_focal_loss(logits, wanted, alpha, gamma)
        if weight.numel():
            loss = loss * torch.cat((weight, weight.new_ones(1)))[target.long()][:, None]
        return loss

    def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha) -> None:
        output.copy_(focal_loss(input, target, weight, gamma, alpha))

    def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha) -> None:
        (grad,) = gradients(
            lambda x: focal_loss(x, target, weight, gamma, alpha), (input,), torch.ones_like(input)
        )
        grad_input.copy_(grad)

    def sample(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

        return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(
            value, shapes, locations, weights
        )

    def ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step) -> Tensor:
        return sample(shapes)(value, locations, weights)

    def ms_deform_attn_backward(
        value, shapes, starts, locations, weights, grad_output, grad_value, grad_locations,
        grad_weights, im2col_step,
    ) -> None:  # fmt: skip
        grads = gradients(sample(shapes), (value, locations, weights), grad_output)
        targets = (grad_value, grad_locations, grad_weights)
        for target, grad in zip(targets, grads, strict=True):
            target.copy_(grad)

    served = (
        nms, roi_align_forward, roi_align_backward, roi_pool_forward, roi_pool_backward,
        deform_conv_forward, deform_conv_backward_input, deform_conv_backward_parameters,
        modulated_deform_conv_forward, modulated_deform_conv_backward,
        sigmoid_focal_loss_forward, sigmoid_focal_loss_backward,
        ms_deform_attn_forward, ms_deform_attn_backward,
    )  # fmt: skip
    return {
        'get_compiler_version': lambda: 'not available',
        'get_compiling_cuda_version': lambda: 'not available',
        **{function.__name__: function for function in served},
    }


install()
