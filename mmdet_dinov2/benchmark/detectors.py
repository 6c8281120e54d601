"""Detectors to measure: that of a config, and mmdet's stock DINO of the same size."""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors import DINO
from mmdet.models.losses import FocalLoss
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ..config.options import check_options
from ..data.seeded import seed_everything
from ..errors import InputError
from ..models import DINOv2, DINOv3
from ..models.dinov2 import PRETRAIN_PATCH_SIZE

_FAMILIES = {family.__name__: family for family in (DINOv2, DINOv3)}
# The optimizer wrapper for each precision.
PRECISIONS = {'fp32': 'OptimWrapper', 'bf16': 'Bf16OptimWrapper'}


@dataclass(frozen=True)
class DetectorSpec:
    """A detector to build. It can be sent to other processes as JSON.

    Attributes:
        config: Config file.
        options: Settings that override the config, as in ``--cfg-options``.
        stock: Whether to build mmdet's detector of the same size instead.
        precision: 'fp32', or 'bf16' for autocast.
        device: 'cpu' or 'cuda'.
        seed: Seed of the random weights.
        reproducible: Whether training steps run as with ``reproducible=True`` in a config.
    """

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stock: bool = False
    precision: str = 'fp32'
    device: str = 'cpu'
    seed: int = 0
    reproducible: bool = False

    def as_dict(self) -> dict:
        """Returns the attributes by name."""
        return asdict(self)

    @property
    def name(self) -> str:
        """'mmdet' for the stock detector, otherwise 'ours'."""
        return 'mmdet' if self.stock else 'ours'


def read_detector_config(spec: DetectorSpec) -> Config:
    """Reads the config of a detector, without its pretrained weights.

    Raises:
        InputError: If the precision is unknown, or the config is not that of a detector with a
            backbone of this project.
    """
    if spec.precision not in PRECISIONS:
        raise InputError(
            f'precision must be one of {sorted(PRECISIONS)}, but is {spec.precision!r}'
        )
    cfg = Config.fromfile(spec.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    cfg.merge_from_dict(check_options(spec.options, cfg))
    family = _FAMILIES.get(cfg.get('model', {}).get('backbone', {}).get('type'))
    if family is None:
        raise InputError(
            f'model.backbone of {spec.config} must have one of the types {list(_FAMILIES)}'
        )
    cfg.model.backbone.init_cfg = None  # the cost does not depend on the weights
    cfg.model.backbone.setdefault(
        'patch_size', inspect.signature(family).parameters['patch_size'].default
    )
    width = family.resolve_arch(cfg.model.backbone.arch)['embed_dims']
    several = not isinstance(cfg.model.neck.in_channels, int)
    cfg.model.neck.in_channels = [width] * len(cfg.model.neck.in_channels) if several else width
    return cfg


def build_detector(spec: DetectorSpec) -> DINO:
    """Builds a detector in training mode, with random weights that depend on its seed only."""
    cfg = read_detector_config(spec)
    model_cfg = stock_detector_config(cfg.model) if spec.stock else cfg.model
    seed_everything(spec.seed)
    model = MODELS.build(copy.deepcopy(model_cfg))
    model.init_weights()
    return model.to(spec.device).train()


def build_optimizer(model: nn.Module, spec: DetectorSpec, guarded: bool = False) -> OptimWrapper:
    """Builds the optimizer of the config, in the wrapper for the precision.

    Args:
        model: The detector.
        spec: What it was built from.
        guarded: Whether the wrapper leaves out non-finite steps in fp32 too, as in the configs.
    """
    wrapper = copy.deepcopy(read_detector_config(spec).optim_wrapper)
    for key in ('dtype', 'loss_scale', 'accumulative_counts', 'use_fsdp'):
        wrapper.pop(key, None)
    if spec.stock and wrapper.get('paramwise_cfg'):
        # mmdet's detectors do not know the depth of a parameter; the work stays the same.
        wrapper.paramwise_cfg.pop('layer_decay_rate', None)
    wrapper_type = PRECISIONS[spec.precision]
    if guarded and wrapper_type == 'OptimWrapper':
        wrapper_type = 'GuardedOptimWrapper'
    return build_optim_wrapper(model, dict(wrapper, type=wrapper_type))


def autocast(spec: DetectorSpec) -> torch.autocast:
    """Returns the context of a forward pass in the precision of a detector."""
    return torch.autocast(spec.device, dtype=torch.bfloat16, enabled=spec.precision == 'bf16')


def stock_detector_config(model: Mapping[str, Any]) -> dict:
    """Returns the config of mmdet's DINO with mmpretrain's ViT, in the size of our detector.

    The pyramid is the same, but does not know the padding. mmdet pads a batch to the next multiple
    of the patch size. What mmpretrain's ViT does not have, such as windows, is left out, and the
    focal loss takes the place of losses that mmdet does not have.

    Args:
        model: Model config of a detector of this project.

    Raises:
        InputError: If mmpretrain is not installed, or cannot freeze the same parts.
    """
    if importlib.util.find_spec('mmpretrain') is None:
        raise InputError(
            'the comparison with mmdet needs mmpretrain; see requirements/mminstall.txt'
        )
    model = copy.deepcopy(dict(model))
    ours = model['backbone']
    if ours['type'] != 'DINOv2':
        raise InputError(f'mmpretrain does not have {ours["type"]} to compare with')
    if ours.get('num_registers'):
        raise InputError('mmpretrain does not have a DINOv2 with registers to compare with')
    model['type'] = 'DINO'
    model['backbone'] = stock_backbone_config(
        ours.get('arch', 'base'),
        patch_size=ours['patch_size'],
        img_size=ours.get('img_size', 518),
        frozen_stages=ours.get('frozen_stages', -1),
        drop_path_rate=ours.get('drop_path_rate', 0.0),
    )
    model['neck'] = dict(model['neck'])
    model['data_preprocessor'] = dict(
        model['data_preprocessor'], pad_size_divisor=model['backbone']['patch_size']
    )
    model['encoder'], model['decoder'] = (
        _only(model[part], known) for part, known in (('encoder', _ENCODER), ('decoder', _DECODER))
    )
    head = dict(_only(model['bbox_head'], _HEAD), type='DINOHead')
    if head['loss_cls']['type'] in ('IABCELoss', 'MALoss'):
        head['loss_cls'] = dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        )
    model['bbox_head'] = head
    model['dn_cfg'] = {k: v for k, v in model['dn_cfg'].items() if k != 'max_boxes'}
    assigner = dict(model['train_cfg']['assigner'], type='HungarianAssigner')
    model['train_cfg'] = dict(model['train_cfg'], assigner=assigner)
    if torch.cuda.is_available() and not _has_cuda_operators():
        loss = dict(model['bbox_head']['loss_cls'], type='OneHotFocalLoss')
        model['bbox_head']['loss_cls'] = loss
    return {key: value for key, value in model.items() if key in _DETECTOR}


# The arguments of mmdet 3.5 that our configs use; our classes have more.
_DETECTOR = {
    'type', 'num_queries', 'with_box_refine', 'as_two_stage', 'num_feature_levels',
    'data_preprocessor', 'backbone', 'neck', 'encoder', 'decoder', 'positional_encoding',
    'bbox_head', 'dn_cfg', 'train_cfg', 'test_cfg',
}  # fmt: skip
_ENCODER = {'num_layers', 'layer_cfg'}
_DECODER = {'num_layers', 'layer_cfg', 'return_intermediate', 'post_norm_cfg'}
_HEAD = {
    'num_classes', 'embed_dims', 'num_reg_fcs', 'sync_cls_avg_factor', 'loss_cls', 'loss_bbox',
    'loss_iou', 'share_pred_layer', 'num_pred_layer', 'as_two_stage',
}  # fmt: skip


def _only(cfg: Mapping[str, Any], known: set[str]) -> dict:
    return {key: value for key, value in cfg.items() if key in known}


def stock_backbone_config(
    arch: str | Mapping[str, Any],
    patch_size: int,
    img_size: int,
    frozen_stages: int | str = -1,
    drop_path_rate: float = 0.0,
) -> dict:
    """Returns the config of mmpretrain's ViT in the size of our backbone.

    The arguments are those of ``DINOv2``.

    Raises:
        InputError: If mmpretrain cannot freeze the same parts.
    """
    size = DINOv2.resolve_arch(arch)
    if frozen_stages == 0:
        raise InputError(
            'frozen_stages=0 cannot be compared: mmpretrain would not freeze anything with it'
        )
    keys = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
    cfg = dict(
        type='mmpretrain.VisionTransformer',
        arch={key: size[key] for key in keys},
        # Our position embedding has the same grid for every patch size.
        img_size=img_size // PRETRAIN_PATCH_SIZE * patch_size,
        patch_size=patch_size,
        out_type='featmap',
        layer_scale_init_value=size['layer_scale'],
        frozen_stages=size['num_layers'] if frozen_stages == 'all' else frozen_stages,
        drop_path_rate=drop_path_rate,
    )
    if size['ffn'] == 'swiglu':
        # mmpretrain expects the width before it multiplies by 2/3 for the gate, in steps of 8.
        cfg['arch']['feedforward_channels'] = size['feedforward_channels'] * 3 // 2
        cfg['layer_cfgs'] = dict(ffn_type='swiglu_fused')
    return cfg


def _has_cuda_operators() -> bool:
    """Returns whether mmcv was compiled with CUDA operators."""
    from mmcv.ops import get_compiling_cuda_version

    return get_compiling_cuda_version() != 'not available'


@MODELS.register_module()
class OneHotFocalLoss(FocalLoss):
    """mmdet's focal loss in PyTorch, for a GPU without mmcv's CUDA operators.

    mmdet uses its PyTorch implementation if the targets are one-hot.
    """

    def forward(self, pred: Tensor, target: Tensor, *args, **kwargs) -> Tensor:
        one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1]
        return super().forward(pred, one_hot, *args, **kwargs)
