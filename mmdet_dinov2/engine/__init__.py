"""Training engine: runner, loops, optimizer wrappers, scaling, command line."""

from .checkpoint_hook import DetectionCheckpointHook
from .ema_hook import DetectionEMAHook
from .forecast_hook import ForecastHook
from .fsdp import FullyShardedModel
from .log_processor import DetectionLogProcessor
from .loops import EpochTrainLoop, IterTrainLoop
from .optim_constructor import DetectionOptimWrapperConstructor
from .optim_wrapper import Bf16OptimWrapper
from .preemption import PreemptionHook
from .runner import DetectionRunner

__all__ = [
    'Bf16OptimWrapper',
    'DetectionCheckpointHook',
    'DetectionEMAHook',
    'DetectionLogProcessor',
    'DetectionOptimWrapperConstructor',
    'DetectionRunner',
    'EpochTrainLoop',
    'ForecastHook',
    'FullyShardedModel',
    'IterTrainLoop',
    'PreemptionHook',
]
