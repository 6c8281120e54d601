"""What processes agree on before a step changes their weights, and the mean of their gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from torch import Tensor, nn

# Elements of the buffer through which small gradients travel together.
_BUFFER_SIZE = 2**23


class GradientExchange:
    """Averages the gradients of all processes once, after each of them has its own.

    ``DistributedDataParallel`` averages during the backward pass. A process that runs out of memory
    there leaves the others waiting. Here every process first says how it fared, and may compute its
    gradients again while the others keep theirs.

    Everything that averaging allocates is allocated when this object is built, so that no process
    can run out of memory while the others wait for it.

    Args:
        model: The model; its parameters that are trained take part.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        largest: dict[tuple[torch.device, torch.dtype], int] = {}
        for parameter in self._parameters:
            kind = (parameter.device, parameter.dtype)
            largest[kind] = largest.get(kind, 0) + parameter.numel()
        self._buffers = {
            (device, dtype): torch.empty(min(size, _BUFFER_SIZE), device=device, dtype=dtype)
            for (device, dtype), size in largest.items()
        }

    def agree(self, verdict: int) -> int:
        """Returns the largest verdict of all processes; every process has to call it.

        It also gives a gradient of zeros to each parameter that has one in another process only.

        Args:
            verdict: How this process fared, at least 0.
        """
        flags = [verdict, *(p.grad is not None for p in self._parameters)]
        shared = torch.tensor(flags, dtype=torch.int32, device=self._parameters[0].device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        largest, *used = shared.tolist()
        if not largest:
            for parameter, is_used in zip(self._parameters, used, strict=True):
                if is_used and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return largest

    def average(self) -> None:
        """Replaces the gradients by their means over the processes."""
        waiting: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        sizes: dict[tuple[torch.device, torch.dtype], int] = {}
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            kind = (gradient.device, gradient.dtype)
            buffer = self._buffers[kind]
            if gradient.numel() >= len(buffer) // 2:
                parameter.grad = gradient.contiguous().div_(get_world_size())
                dist.all_reduce(parameter.grad)
                continue
            if sizes.get(kind, 0) + gradient.numel() > len(buffer):
                _average_in(buffer, waiting.pop(kind))
                sizes[kind] = 0
            waiting.setdefault(kind, []).append(gradient)
            sizes[kind] = sizes.get(kind, 0) + gradient.numel()
        for kind, gradients in waiting.items():
            _average_in(self._buffers[kind], gradients)


def _average_in(buffer: Tensor, gradients: list[Tensor]) -> None:
    """Averages gradients over the processes by way of a buffer that holds all of them."""
    sizes = [gradient.numel() for gradient in gradients]
    used = buffer[: sum(sizes)]
    parts = used.split(sizes)
    views = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(views, gradients)
    dist.all_reduce(used.div_(get_world_size()))
    torch._foreach_copy_(gradients, views)
