"""An evaluator for data with images that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import EVALUATOR
from mmengine.structures import BaseDataElement

from ..sample_meta import BAD_IMAGES, bad_images
from ..wording import name_some


@EVALUATOR.register_module()
class BadImageEvaluator(Evaluator):
    """mmengine's ``Evaluator`` that counts images that cannot be read as images without detections.

    The log names them. If there are any, ``bad_images`` among the results is their number.

    Args:
        metrics: As for mmengine's ``Evaluator``.
    """

    def __init__(self, metrics: Any) -> None:
        super().__init__(metrics)
        self._bad: list[tuple[str, str]] = []

    def process(self, data_samples: Sequence[Any], data_batch: Any = None) -> None:
        """Passes predictions to the metrics; see mmengine's ``Evaluator``."""
        # Dicts are stored predictions, whose bad images have none already.
        samples = [sample for sample in data_samples if isinstance(sample, BaseDataElement)]
        self._bad += bad_images(samples)
        for sample in samples:
            if BAD_IMAGES in sample.metainfo:
                sample.pred_instances = sample.pred_instances[:0]
        super().process(data_samples, data_batch)

    def evaluate(self, size: int) -> dict[str, Any]:
        """Computes the metrics; see mmengine's ``Evaluator``. All processes have to call it."""
        # Samplers give an image to two processes if the number of images is not divisible.
        bad = sorted({found for part in all_gather_object(self._bad) for found in part})
        self._bad = []
        for metric in self.metrics:
            if hasattr(metric, 'bad_images'):
                metric.bad_images = tuple(bad)
        metrics = super().evaluate(size)
        if bad:
            described = [f'{path}: {reason}' for path, reason in bad]
            print_log(
                f'{len(bad)} of {size} images cannot be read and were scored as images without '
                f'detections: {name_some(described)}',
                logger='current',
                level=logging.WARNING,
            )
            metrics['bad_images'] = len(bad)
        return metrics
