"""Fully sharded data parallelism, for models that do not fit on one GPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...errors import InputError
from ...layers import HoldsFrozenWeights

_DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)


@MODEL_WRAPPERS.register_module()
class FullyShardedModel(nn.Module):
    """A model whose parameters, gradients and optimizer states are divided over the processes.

    It uses torch's ``fully_shard`` (FSDP 2) under the plain runner. Each transformer block of
    backbone, encoder and decoder is gathered before it runs and divided again after it; the rest is
    one more unit. Frozen parameters are also divided. Gradients are averaged as with DDP.

    Args:
        module: The initialised model; the weights of process 0 are used.
        reduce_dtype: Type in which gradients are averaged, 'bfloat16' or 'float32'.
        reshard_after_forward: Whether blocks are divided directly after their forward pass, which
            saves memory and costs one more gathering in the backward pass.

    Raises:
        InputError: If ``reduce_dtype`` is unknown, or frozen weights are kept in bf16.
    """

    def __init__(
        self,
        module: nn.Module,
        reduce_dtype: str = 'bfloat16',
        reshard_after_forward: bool = True,
    ) -> None:
        super().__init__()
        if reduce_dtype not in _DTYPES:
            raise InputError(
                f'reduce_dtype of model_wrapper_cfg must be one of {sorted(_DTYPES)}, but it is '
                f'{reduce_dtype!r}'
            )
        if any(getattr(part, 'frozen_in_bf16', False) for part in module.modules()):
            raise InputError(
                "frozen_dtype='bfloat16' does not work with FullyShardedModel, which divides "
                'frozen weights over the processes; leave one of them out'
            )
        for part in module.modules():
            if isinstance(part, HoldsFrozenWeights):
                part.can_hold = False
        device = next(module.parameters()).device
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        policy = MixedPrecisionPolicy(reduce_dtype=_DTYPES[reduce_dtype])
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
        for block in transformer_blocks(module):
            fully_shard(
                block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward
            )
        self.module = fully_shard(module, mesh=mesh, mp_policy=policy)

    def forward(self, *args, **kwargs):
        """Runs the model."""
        return self.module(*args, **kwargs)

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Runs a training step; see mmengine's ``BaseModel.train_step``."""
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, True)
            losses = self.module(**data, mode='loss')
        loss, log_vars = self.module.parse_losses(losses)
        # The backward pass reads this: only that of the last micro-batch averages gradients.
        self.module.set_requires_gradient_sync(optim_wrapper.should_sync())
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: dict) -> list:
        """Predicts; see mmengine's ``BaseModel.val_step``."""
        return self.module.val_step(data)

    def test_step(self, data: dict) -> list:
        """Predicts; see mmengine's ``BaseModel.test_step``."""
        return self.module.test_step(data)


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Returns the blocks of backbones and the layers of transformers.

    These are the modules with parameters in lists named ``blocks`` or ``layers``.
    """
    return [
        block
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rsplit('.', 1)[-1] in ('blocks', 'layers')
        for block in module
        if any(True for _ in block.parameters()) and not isinstance(block, nn.Linear)
    ]


def clip_grad_norm(
    parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2.0, **kwargs
) -> Tensor:
    """Clips like ``torch.nn.utils.clip_grad_norm_``, but returns the norm over all processes.

    mmengine's wrapper for fp16 logs the norm as a number, which a sharded one is not.

    Args:
        parameters: The parameters, divided or not.
        max_norm: Largest norm of all gradients together.
        norm_type: Order of the norm.
        **kwargs: As for torch's function.

    Returns:
        The norm before clipping.
    """
    norm = nn.utils.clip_grad_norm_(parameters, max_norm, norm_type, **kwargs)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
