"""Training engine: runner, optimizer wrappers, command line."""

from .optim_wrapper import Bf16OptimWrapper
from .runner import DetectionRunner

__all__ = ['Bf16OptimWrapper', 'DetectionRunner']
