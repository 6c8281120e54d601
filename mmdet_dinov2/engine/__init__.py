"""Training: runner, loops, the effective batch. Importing registers all parts of it."""

from . import hooks, optim
from .log import LiveBarHook, ReadableLogProcessor
from .loops import EpochTrainLoop, IterTrainLoop
from .runner import StrictRunner
from .wandb_backend import NoCodeWandbVisBackend

__all__ = [
    'NoCodeWandbVisBackend',
    'LiveBarHook',
    'ReadableLogProcessor',
    'StrictRunner',
    'EpochTrainLoop',
    'IterTrainLoop',
    'hooks',
    'optim',
]
