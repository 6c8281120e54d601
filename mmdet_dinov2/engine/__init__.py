"""Training engine: runner, loops, optimizer wrappers, scaling, command line."""

from .checkpoint_hook import DetectionCheckpointHook
from .coco_metric import DetectionCocoMetric
from .detector import Detector, load
from .early_stopping import ResumableEarlyStoppingHook
from .ema_hook import DetectionEMAHook
from .evaluation import DetectionEvaluator
from .forecast_hook import ForecastHook
from .fsdp import FullyShardedModel
from .log_processor import DetectionLogProcessor
from .loops import EpochTrainLoop, IterTrainLoop
from .memory_hook import LoaderMemoryHook
from .nonfinite import NonFiniteHook
from .optim_constructor import DetectionOptimWrapperConstructor
from .optim_wrapper import Bf16OptimWrapper, GuardedOptimWrapper
from .preemption import PreemptionHook
from .runner import DetectionRunner
from .visualization_hook import ReadableVisualizationHook

__all__ = [
    'Bf16OptimWrapper',
    'DetectionCheckpointHook',
    'DetectionCocoMetric',
    'DetectionEMAHook',
    'DetectionEvaluator',
    'DetectionLogProcessor',
    'DetectionOptimWrapperConstructor',
    'DetectionRunner',
    'Detector',
    'EpochTrainLoop',
    'ForecastHook',
    'FullyShardedModel',
    'GuardedOptimWrapper',
    'IterTrainLoop',
    'LoaderMemoryHook',
    'NonFiniteHook',
    'PreemptionHook',
    'ReadableVisualizationHook',
    'ResumableEarlyStoppingHook',
    'load',
]
