"""Detectors of mmdet on this backbone, at tiny sizes, from the configs that mmdet ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from torch import nn

from .tiny import ARCH, NUM_CLASSES, data_sample

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
DIMS = 32
PATCH = 16
_FINE = dict(scale_factors=(4.0, 2.0, 1.0, 0.5), num_outs=5)  # strides 4 to 64
_COARSE = dict(scale_factors=(2.0, 1.0, 0.5), num_outs=5)  # 8 to 128
_FOUR = dict(scale_factors=(2.0, 1.0, 0.5), num_outs=4)  # 8 to 64
_ONE = dict(scale_factors=(0.5,), num_outs=1)
# Config of mmdet, and the neck that gives its levels.
FAMILIES = {
    'Faster R-CNN': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', _FINE),
    'Mask R-CNN': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', _FINE),
    'Cascade R-CNN': ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', _FINE),
    'RetinaNet': ('retinanet/retinanet_r50_fpn_1x_coco.py', _COARSE),
    'FCOS': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', _COARSE),
    'Deformable DETR': ('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', _FOUR),
    'DINO': ('dino/dino-4scale_r50_8xb2-12e_coco.py', _FOUR),
    'DAB-DETR': ('dab_detr/dab-detr_r50_8xb2-50e_coco.py', _ONE),
    'DETR': ('detr/detr_r50_8xb2-150e_coco.py', _ONE),
    'DDQ': ('ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py', _FOUR),
    'Mask2Former': (
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        dict(_FINE, num_outs=4),
    ),
}
MASKS = ('Mask R-CNN', 'Mask2Former')

_WIDTHS = {2048: 2 * DIMS, 1024: 2 * DIMS, 512: DIMS, 256: DIMS, 128: DIMS // 2}
_COUNTS = dict(
    num_classes=NUM_CLASSES, num_things_classes=NUM_CLASSES, num_stuff_classes=0,
    num_queries=20, num_layers=2, stacked_convs=1, num_dn_queries=10, max_per_img=20,
    max_per_image=20,
)  # fmt: skip
_KEPT = ('anchor_generator', 'regress_ranges', 'featmap_strides', 'strides', 'nms_pre')


def family_cfg(name: str) -> ConfigDict:
    """Returns the model config of a family, shrunk, with our backbone, neck and preprocessor."""
    file, neck = FAMILIES[name]
    model = Config.fromfile(CONFIGS / file).model
    old = model.data_preprocessor
    model = shrink(model)
    model.data_preprocessor = dict(old, type='SizedDataPreprocessor', batch_augments=None)
    model.backbone = dict(type='DINOv2', arch=ARCH, img_size=56, patch_size=PATCH)
    model.neck = dict(
        type='SimpleFeaturePyramid', in_channels=ARCH['embed_dims'], out_channels=DIMS, **neck
    )
    if name == 'Mask2Former':
        model.panoptic_head.in_channels = [DIMS] * 4
        model.panoptic_head.loss_cls.class_weight = [1.0] * NUM_CLASSES + [0.1]
        model.train_cfg.num_points = 64
    if 'encoder' in model:
        model.bbox_head.embed_dims = DIMS
    if 'dn_cfg' in model:
        model.dn_cfg.group_cfg.num_dn_queries = 10
    return model


def build_family(name: str) -> nn.Module:
    """Builds the detector of a family with random weights."""
    model = MODELS.build(family_cfg(name))
    model.init_weights()
    return model


def batch_of(name: str, *sizes: tuple[int, int]) -> dict[str, list]:
    """Makes images of noise with two boxes each, as a dataloader returns them."""
    inputs, samples = [], []
    for height, width in sizes:
        sample = data_sample(height, width, 2)
        if name in MASKS:
            masks = torch.zeros(2, height, width, dtype=torch.uint8)
            for mask, box in zip(masks, sample.gt_instances.bboxes.round().int().tolist()):
                mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = 1
            sample.gt_instances.masks = BitmapMasks(masks.numpy(), height, width)
        inputs.append(torch.randint(256, (3, height, width), dtype=torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def shrink(value: Any, key: str = '') -> Any:
    """Copies a config with small widths, few layers and few classes."""
    if isinstance(value, dict):
        return ConfigDict({k: v if k in _KEPT else shrink(v, k) for k, v in value.items()})
    if key in _COUNTS and not isinstance(value, (list, tuple)):
        return _COUNTS[key]
    if isinstance(value, (list, tuple)):
        return type(value)(shrink(item, key) for item in value)
    return _WIDTHS.get(value, value) if isinstance(value, int) else value
