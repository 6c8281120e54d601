"""Parameter groups, optimizer steps, and models that are sharded over processes."""

from .constructor import LayerDecayOptimWrapperConstructor
from .fsdp import FullyShardedModel
from .wrapper import Bf16OptimWrapper, GuardedAmpOptimWrapper, GuardedOptimWrapper

__all__ = [
    'Bf16OptimWrapper',
    'LayerDecayOptimWrapperConstructor',
    'FullyShardedModel',
    'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper',
]
