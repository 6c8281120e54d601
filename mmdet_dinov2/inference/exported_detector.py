"""Exported files in the place of trained detectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import InputError
from ..models.mask_prediction import masks_from_logits
from ..wording import name_some
from .reader import SUFFIXES, Metadata, Reader, ReaderError, read_metadata

# Files of `mmdet_dinov2 export` that PyTorch or TensorRT read.
_OTHER_SUFFIXES = {
    '.pt2': 'torch.export.load reads it',
    '.engine': 'TensorRT reads it',
    '.bin': 'it holds the weights of the .xml beside it; name that one',
    '.data': 'it holds the weights of the .onnx beside it; name that one',
}


def is_exported(path: str | os.PathLike) -> bool:
    """Returns whether a name is that of an exported file.

    Raises:
        InputError: If it is the name of an exported file that this project does not run.
    """
    suffix = Path(path).suffix
    if suffix in _OTHER_SUFFIXES:
        raise InputError(
            f'{path} does not run here ({_OTHER_SUFFIXES[suffix]}); a checkpoint, or a file that '
            f'ends in {" or ".join(SUFFIXES)}, is expected'
        )
    return suffix in SUFFIXES


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """A detector in an exported file, for everything that predicts.

    Takes what a test pipeline gives, as detectors of mmdet do. It has no weights of PyTorch and
    cannot be trained. The runtime starts with the first prediction.

    Args:
        file: File of ``mmdet_dinov2 export``, ``.onnx`` or ``.xml``.
        threads: Threads that compute; None lets the runtime choose.
        runtime: 'onnxruntime' or 'openvino'; None takes the one for the file.

    Attributes:
        metadata: What the file says about itself.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it cannot be used.
    """

    def __init__(
        self, file: str | os.PathLike, threads: int | None = None, runtime: str | None = None
    ) -> None:
        self.metadata = read_checked(file)
        super().__init__(
            data_preprocessor=dict(
                type='mmdet.DetDataPreprocessor',
                mean=list(self.metadata.mean),
                std=list(self.metadata.std),
                bgr_to_rgb=self.metadata.channel_order == 'rgb',
            )
        )
        self._arguments = (file, threads, runtime)
        self._reader: Reader | None = None

    def forward(
        self, inputs: Tensor, data_samples: SampleList | None = None, mode: str = 'predict'
    ) -> SampleList:
        """Adds detections to the samples.

        Args:
            inputs: Normalised images at the top left of a canvas, (B, 3, H, W).
            data_samples: Samples with ``img_shape`` and ``scale_factor``.
            mode: 'predict'.

        Raises:
            InputError: If the mode is a different one, or the graph does not take a size.
        """
        if mode != 'predict' or data_samples is None:
            raise InputError('an exported file predicts only; train with a checkpoint')
        for sample in data_samples:
            self.check_size(sample.img_shape[:2], sample.metainfo.get('img_path'))
        # A graph takes images of one size.
        of_size: dict[tuple[int, int], list[int]] = {}
        for index, sample in enumerate(data_samples):
            of_size.setdefault(tuple(sample.img_shape[:2]), []).append(index)
        for (height, width), numbers in of_size.items():
            images = inputs[numbers, :, :height, :width].cpu().numpy()
            for index, *found in zip(numbers, *self.run(images), strict=True):
                data_samples[index].pred_instances = self._instances(
                    [torch.from_numpy(values) for values in found], data_samples[index]
                )
        return data_samples

    def check_size(self, sides: Sequence[int], name: str | None = None) -> None:
        """Checks that the graph takes images of a size.

        Args:
            sides: Height and width in pixels.
            name: Path of the image, for the message.

        Raises:
            InputError: If it does not.
        """
        refusal = self.metadata.refusal(sides)
        if refusal:
            raise InputError(f'{name or "an image"} does not fit: {self._arguments[0]} {refusal}')

    def _instances(self, found: list[Tensor], sample: DetDataSample) -> InstanceData:
        boxes, scores, labels, *masks = found
        scale, size = sample.metainfo.get('scale_factor'), sample.img_shape
        factors = boxes.new_tensor(scale or (1.0, 1.0))
        if scale is not None:
            boxes, size = boxes / factors.repeat(1, 2), sample.ori_shape
        instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        if masks:
            cell = self.metadata.mask_stride / factors
            instances.masks = masks_from_logits(masks[0], cell, boxes, size[:2])
        return instances

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Runs the graph; see :meth:`.reader.Reader.run`."""
        try:
            if self._reader is None:
                self._reader = Reader(*self._arguments)
            return self._reader.run(images)
        except ReaderError as error:
            raise InputError(str(error)) from error


def read_checked(file: str | os.PathLike) -> Metadata:
    """Reads the metadata of an exported file.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it cannot be used.
    """
    try:
        return read_metadata(file)
    except ReaderError as error:
        raise InputError(str(error)) from error


def pipeline_of(metadata: Metadata) -> list[dict[str, Any]]:
    """Returns the test pipeline that the metadata describe."""
    pipeline: list[dict[str, Any]] = [dict(type='mmdet_dinov2.LoadImageFromFile')]
    if metadata.resize is not None:
        pipeline.append(
            dict(
                type='Resize',
                scale=tuple(metadata.resize['scale']),
                keep_ratio=metadata.resize['keep_ratio'],
            )
        )
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    return [*pipeline, dict(type='PackDetInputs', meta_keys=keys)]


def use_exported(cfg: Config, file: str | os.PathLike) -> None:
    """Puts an exported file into a config, in the place of model and checkpoint.

    Args:
        cfg: Config with a ``test_dataloader``, changed in place.
        file: The exported file.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it cannot be used, or has other classes than the test dataset.
    """
    metadata = read_checked(file)
    dataset = cfg.test_dataloader.dataset
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is not None and tuple(classes) != metadata.classes:
        raise InputError(
            f'{file} detects {name_some(metadata.classes)}, but the test dataset of the config has '
            f'{name_some(tuple(classes))}; use the config that the file was exported with'
        )
    cfg.model = dict(type='ExportedDetector', file=str(file))
    cfg.load_from = None
