"""Test-time augmentation of any detector: flips and scales of its test pipeline."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import InputError
from .tiles import innermost

# Sizes of the views, relative to that of the test pipeline.
SCALES = (1.0, 0.8, 1.2)
# Detections of a class that overlap more are one. Detectors without NMS (DETR and its successors)
# find objects that overlap more than the 0.5 of mmdet's default leaves.
_IOU_THRESHOLD = 0.7
# What the merging of views needs to know about them.
_META_KEYS = ('ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def use_tta(cfg: Config) -> None:
    """Lets the test of a config see each image as several views, in place.

    ``tta_model`` and ``tta_pipeline`` of the config decide, named as in mmdet. What it lacks is
    made from its model and its test pipeline.

    Raises:
        InputError: If the test pipeline does not have what a pipeline of views is made from.
    """
    for dataset in innermost(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.get('tta_pipeline') or tta_pipeline(dataset.pipeline)
    cfg.model = tta_model(cfg.model, cfg.get('tta_model'))


def tta_model(model: Mapping[str, Any], wrapper: Mapping[str, Any] | None = None) -> ConfigDict:
    """Wraps the config of a detector for several views.

    Args:
        model: Config of the detector.
        wrapper: Config of the wrapper, without ``module``; None makes one that returns as many
            detections as the detector.
    """
    if wrapper is None:
        test_cfg = model.get('test_cfg') or {}
        test_cfg = test_cfg.get('rcnn') or test_cfg
        wrapper = dict(
            type='PackedTTAModel',
            tta_cfg=dict(
                nms=dict(type='nms', iou_threshold=_IOU_THRESHOLD),
                max_per_img=test_cfg.get('max_per_img', 100),
            ),
        )
    return ConfigDict(**wrapper, module=model)


def tta_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Makes a pipeline of views from a test pipeline.

    The views are all pairs of a scale and a flip or none: the image is resized to 1.0, 0.8 and 1.2
    times the size of the test.

    Args:
        pipeline: Configs of transforms: those that load, one ``Resize`` with a ``scale``, others,
            ``PackDetInputs`` at the end.

    Returns:
        A pipeline that ends with ``TestTimeAug``.

    Raises:
        InputError: If it does not have that form.
    """
    names = [str(transform['type']).rpartition('.')[2] for transform in pipeline]
    if names.count('Resize') != 1 or names[-1] != 'PackDetInputs':
        raise InputError(
            'test-time augmentation needs a test pipeline with one Resize and PackDetInputs at the '
            f'end, but it is {names}; set tta_pipeline in the config'
        )
    at = names.index('Resize')
    resize = pipeline[at]
    if 'scale' not in resize:
        raise InputError(
            'test-time augmentation needs a Resize with a scale in the test pipeline, but it is '
            f'{dict(resize)}; set tta_pipeline in the config'
        )
    scale = resize['scale']
    width, height = (scale, scale) if isinstance(scale, int) else scale
    resizes = [
        dict(resize, scale=(round(factor * width), round(factor * height))) for factor in SCALES
    ]
    flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
    steps = [resizes, flips, *([dict(step)] for step in pipeline[at + 1 : -1])]
    pack = dict(pipeline[-1])
    if 'meta_keys' in pack:
        pack['meta_keys'] = tuple(dict.fromkeys((*pack['meta_keys'], *_META_KEYS)))
    # The first view is not flipped. Its data sample receives the merged detections, so annotations
    # that are loaded behind the flip are right in it.
    steps.append([pack])
    before = [copy.deepcopy(dict(step)) for step in pipeline[:at]]
    return [*before, dict(type='TestTimeAug', transforms=steps)]
