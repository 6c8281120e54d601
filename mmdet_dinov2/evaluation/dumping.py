"""Predictions of a test in a pickle file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.evaluation import DumpDetResults

from ..instance_masks import as_text, run_lengths


class DumpRunLengths(DumpDetResults):
    """mmdet's ``DumpDetResults`` that takes masks in either form that predictions carry them in.

    mmdet's takes tensors only. In the file, masks are run lengths as text: bytes would need code to
    be read.

    Args:
        *args: As for mmdet's ``DumpDetResults``.
        **kwargs: As for mmdet's ``DumpDetResults``.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps the predictions of a batch."""
        super().process(data_batch, [_without_masks(sample) for sample in data_samples])
        kept = self.results[len(self.results) - len(data_samples) :]
        for sample, result in zip(data_samples, kept, strict=True):
            found = sample.get('pred_instances', {})
            if 'masks' in found:
                masks = run_lengths(found['masks'])
                result['pred_instances']['masks'] = [as_text(mask) for mask in masks]


def _without_masks(sample: dict[str, Any]) -> dict[str, Any]:
    found = sample.get('pred_instances')
    if not found or 'masks' not in found:
        return sample
    return {**sample, 'pred_instances': {k: v for k, v in found.items() if k != 'masks'}}
