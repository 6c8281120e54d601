"""Tiny models and batches for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_dinov2.models import PackedViT

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64, ffn='mlp')
NUM_CLASSES = 3


def randomize(model: nn.Module, std: float = 0.2) -> nn.Module:
    """Gives every parameter a value that matters; those of LayerScales lie in 0.5..1.5."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('gamma'):
                parameter.uniform_(0.5, 1.5)
            elif parameter.dim() > 1:
                parameter.normal_(std=std)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def backbone_cfg(type: str = 'DINOv2', **kwargs) -> dict:
    """Returns the config of a backbone with 4 blocks; arguments as for the class of that name."""
    only = dict(img_size=56) if type == 'DINOv2' else dict(num_registers=0)
    return {'type': type, 'arch': ARCH, 'patch_size': 14, **only, **kwargs}


def tiny_backbone(type: str = 'DINOv2', **kwargs) -> PackedViT:
    """Builds the backbone of ``backbone_cfg`` with random weights."""
    return randomize(MODELS.build(backbone_cfg(type, **kwargs)))


# Other shapes of the detector, as arguments of ``detector_cfg``.
SHAPES = {
    'no encoder': dict(encoder_layers=0),
    'one level': dict(num_levels=1),
    'two levels of several depths': dict(num_levels=2, backbone=dict(out_indices=(0, 2, 3))),
    'all of it': dict(encoder_layers=0, num_levels=1, backbone=dict(out_indices=(1, 3))),
}


def detector_cfg(
    num_queries: int = 20,
    backbone: dict | None = None,
    num_levels: int = 4,
    encoder_layers: int = 1,
) -> dict:
    """Returns the config of a detector with two decoder layers.

    The neck reads all maps of the backbone if there are several.
    """
    dims = 32
    depths = (backbone or {}).get('out_indices', -1)
    widths = ARCH['embed_dims'] if depths == -1 else [ARCH['embed_dims']] * len(depths)
    return dict(
        type='PaddingAwareDINO',
        num_queries=num_queries,
        with_box_refine=True,
        as_two_stage=True,
        num_feature_levels=num_levels,
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
        ),
        backbone=backbone_cfg(**(backbone or {})),
        neck=dict(
            type='SimpleFeaturePyramid',
            in_channels=widths,
            out_channels=dims,
            scale_factors={1: (1.0,), 2: (1.0, 0.5), 4: (2.0, 1.0, 0.5)}[num_levels],
            num_outs=num_levels,
        ),
        encoder=dict(
            num_layers=encoder_layers,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=dims, num_levels=num_levels, dropout=0.0),
                ffn_cfg=dict(embed_dims=dims, feedforward_channels=64, ffn_drop=0.0),
            ),
        ),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=dims, num_heads=8, dropout=0.0),
                cross_attn_cfg=dict(embed_dims=dims, num_levels=num_levels, dropout=0.0),
                ffn_cfg=dict(embed_dims=dims, feedforward_channels=64, ffn_drop=0.0),
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(
            num_feats=dims // 2, normalize=True, offset=-0.5, temperature=10000
        ),
        bbox_head=dict(
            type='BatchedDINOHead',
            num_classes=NUM_CLASSES,
            embed_dims=dims,
            sync_cls_avg_factor=True,
            loss_cls=dict(
                type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
            ),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        dn_cfg=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=10),
        ),
        train_cfg=dict(
            assigner=dict(
                type='BatchedHungarianAssigner',
                match_costs=[
                    dict(type='FocalLossCost', weight=2.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            )
        ),
        test_cfg=dict(max_per_img=20),
    )


def tiny_detector(**kwargs) -> nn.Module:
    """Builds a detector with random weights; arguments as for ``detector_cfg``."""
    model = MODELS.build(detector_cfg(**kwargs))
    model.init_weights()
    # With the published initial values, boxes and sampling points do not depend on the features.
    return randomize(model, std=0.1)


def data_sample(height: int, width: int, num_boxes: int = 0, masks: bool = False) -> DetDataSample:
    """Makes ground truth with random boxes inside an image, and with ellipses as their masks."""
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
            batch_input_shape=(height, width),
        )
    )
    corners = torch.rand(num_boxes, 2, 2).sort(1).values * torch.tensor([width, height])
    corners[:, 1] += 1
    sample.gt_instances = InstanceData(
        bboxes=corners.flatten(1), labels=torch.randint(NUM_CLASSES, (num_boxes,))
    )
    if masks:
        bitmaps = np.zeros((num_boxes, height, width), np.uint8)
        y, x = np.mgrid[:height, :width] + 0.5
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, corners.flatten(1).tolist(), strict=True):
            u, v = (x - (x1 + x2) / 2) / (x2 - x1 + 2), (y - (y1 + y2) / 2) / (y2 - y1 + 2)
            bitmap[u * u + v * v < 0.25] = 1
        sample.gt_instances.masks = BitmapMasks(bitmaps, height, width)
    return sample


def pad_batch(images: Sequence[Tensor], size: tuple[int, int], fill: float = 7.0) -> Tensor:
    """Stacks images at the top left of a canvas with a padding that would be noticed."""
    batch = torch.full((len(images), 3, *size), fill)
    for canvas, image in zip(batch, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return batch


def total_loss(losses: dict) -> Tensor:
    """Adds up all loss terms."""
    return sum(
        (term if isinstance(term, Tensor) else torch.stack(list(term))).sum()
        for name, term in losses.items()
        if 'loss' in name
    )
