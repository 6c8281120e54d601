"""Tells backbone and neck the sizes of the images, inside mmdet's detectors."""

from __future__ import annotations

from typing import Any

from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS

from ..layers import note_sizes


@MODELS.register_module()
class SizedDataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` that also notes the sizes of the images on the batch.

    mmdet's detectors call ``backbone(batch)`` and ``neck(maps)``, so the padding of a batch would
    be taken for a part of its images. With the note, ``DINOv2`` leaves padding out and the maps of
    ``SimpleFeaturePyramid`` are zero there: in Faster R-CNN, RetinaNet and others the features of
    an image do not depend on the other images of its batch. ``PaddingAwareDINO`` hands the sizes
    over by itself and needs no note.

    Args:
        *args: As for mmdet's ``DetDataPreprocessor``.
        **kwargs: As for mmdet's ``DetDataPreprocessor``.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalises and pads a batch; see mmdet's class."""
        data = super().forward(data, training)
        if data.get('data_samples') is not None:
            note_sizes(data['inputs'], [sample.img_shape[:2] for sample in data['data_samples']])
        return data
