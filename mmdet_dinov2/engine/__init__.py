"""Training: runner, loops, the effective batch. Importing registers all parts of it."""

from . import hooks, optim
from .log import LiveBarHook, NoCodeWandbVisBackend, ReadableLogProcessor
from .loops import EpochTrainLoop, IterTrainLoop
from .runner import StrictRunner

__all__ = [
    'LiveBarHook',
    'NoCodeWandbVisBackend',
    'ReadableLogProcessor',
    'StrictRunner',
    'EpochTrainLoop',
    'IterTrainLoop',
    'hooks',
    'optim',
]
