"""How good detections are: matches with boxes, COCO's evaluation, results, pictures.

Importing this package registers the metric and the evaluator.
"""

from .coco_metric import ClassNameCocoMetric
from .evaluator import BadImageEvaluator

__all__ = ['ClassNameCocoMetric', 'BadImageEvaluator']
