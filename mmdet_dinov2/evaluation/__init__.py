"""How good detections are: matches with boxes, COCO's evaluation, results, pictures.

Importing this package registers the metrics and the evaluator.
"""

from .coco_metric import ClassNameCocoMetric
from .dumping import DumpRunLengths
from .evaluator import BadImageEvaluator

__all__ = ['BadImageEvaluator', 'ClassNameCocoMetric', 'DumpRunLengths']
