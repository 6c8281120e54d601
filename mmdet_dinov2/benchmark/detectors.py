"""Detectors to be measured: of a config, and mmdet's stock DINO of the same size."""

from __future__ import annotations

import copy
import importlib.util
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

from ..data.seeded import seed_everything
from ..errors import InputError
from ..models.dinov2 import PRETRAIN_PATCH_SIZE
from ..models.dinov2_archs import resolve_arch

# How a forward pass runs; the wrapper of this project that runs it so.
PRECISIONS = {'fp32': 'OptimWrapper', 'bf16': 'Bf16OptimWrapper'}


@dataclass(frozen=True)
class DetectorSpec:
    """Which detector to build; travels to other processes as JSON.

    Attributes:
        config: Config file.
        options: Settings that replace those of the config, as in ``--cfg-options``.
        stock: Whether to build mmdet's detector of the same size in its place.
        precision: 'fp32', or 'bf16' for autocast.
        device: 'cpu' or 'cuda'.
        seed: Seed of the random weights.
        reproducible: Whether training steps run as with ``reproducible=True``.
    """

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stock: bool = False
    precision: str = 'fp32'
    device: str = 'cpu'
    seed: int = 0
    reproducible: bool = False

    def as_dict(self) -> dict:
        """The attributes by name."""
        return asdict(self)

    @property
    def name(self) -> str:
        return 'mmdet' if self.stock else 'ours'


def read_detector_config(spec: DetectorSpec) -> Config:
    """Reads the config of a detector that starts from random weights.

    Raises:
        InputError: If the precision is unknown or the config is not one of a DINOv2 detector.
    """
    if spec.precision not in PRECISIONS:
        raise InputError(f'precision {spec.precision!r} is unknown; choose of {sorted(PRECISIONS)}')
    cfg = Config.fromfile(spec.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    cfg.merge_from_dict(dict(spec.options))
    if cfg.get('model', {}).get('backbone', {}).get('type') != 'DINOv2':
        raise InputError(f'{spec.config} has no model with a backbone of type DINOv2')
    cfg.model.backbone.init_cfg = None  # the cost does not depend on the weights
    if cfg.model.neck.in_channels != resolve_arch(cfg.model.backbone.arch)['embed_dims']:
        cfg.model.neck.in_channels = resolve_arch(cfg.model.backbone.arch)['embed_dims']
    return cfg


def build_detector(spec: DetectorSpec) -> DINO:
    """Builds the detector, in training mode, with random weights that depend on the seed alone."""
    cfg = read_detector_config(spec)
    model_cfg = stock_detector_config(cfg.model) if spec.stock else cfg.model
    seed_everything(spec.seed)
    model = MODELS.build(copy.deepcopy(model_cfg))
    model.init_weights()
    return model.to(spec.device).train()


def build_optimizer(model: nn.Module, spec: DetectorSpec) -> OptimWrapper:
    """Builds the optimizer of the config, wrapped for the precision."""
    wrapper = copy.deepcopy(read_detector_config(spec).optim_wrapper)
    for key in ('dtype', 'loss_scale', 'accumulative_counts', 'use_fsdp'):
        wrapper.pop(key, None)
    if spec.stock and wrapper.get('paramwise_cfg'):
        # mmdet's detectors do not know the depth of a parameter; it does not change the work.
        wrapper.paramwise_cfg.pop('layer_decay_rate', None)
    return build_optim_wrapper(model, dict(wrapper, type=PRECISIONS[spec.precision]))


def autocast(spec: DetectorSpec) -> torch.autocast:
    """Context of a forward pass in the precision."""
    return torch.autocast(spec.device, dtype=torch.bfloat16, enabled=spec.precision == 'bf16')


def stock_detector_config(model: Mapping[str, Any]) -> dict:
    """Config of mmdet's own DINO with mmpretrain's ViT, of the size of one of our detectors.

    The pyramid is the same, without knowledge of the padding. mmdet pads a batch to the next
    multiple of the patch size.

    Args:
        model: Model config of a detector of this project.

    Returns:
        The model config. Windows and what else mmpretrain's ViT does not have are left out.

    Raises:
        InputError: If mmpretrain is not installed, or freezes other parts than asked for.
    """
    if importlib.util.find_spec('mmpretrain') is None:
        raise InputError('the comparison with mmdet needs mmpretrain: see requirements/')
    model = copy.deepcopy(dict(model))
    ours = model['backbone']
    if ours.get('num_registers'):
        raise InputError('mmpretrain has no DINOv2 with registers to compare with')
    model['type'] = 'DINO'
    model['backbone'] = stock_backbone_config(
        ours.get('arch', 'base'),
        patch_size=ours.get('patch_size', PRETRAIN_PATCH_SIZE),
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
    model['bbox_head'] = dict(model['bbox_head'], type='DINOHead')
    model['dn_cfg'] = {k: v for k, v in model['dn_cfg'].items() if k != 'max_boxes'}
    assigner = dict(model['train_cfg']['assigner'], type='HungarianAssigner')
    model['train_cfg'] = dict(model['train_cfg'], assigner=assigner)
    if torch.cuda.is_available() and not _has_cuda_operators():
        loss = dict(model['bbox_head']['loss_cls'], type='OneHotFocalLoss')
        model['bbox_head']['loss_cls'] = loss
    return {key: value for key, value in model.items() if key in _DETECTOR}


# Arguments of mmdet 3.5 that our configs use; ours have more.
_DETECTOR = {
    'type', 'num_queries', 'with_box_refine', 'as_two_stage', 'num_feature_levels',
    'data_preprocessor', 'backbone', 'neck', 'encoder', 'decoder', 'positional_encoding',
    'bbox_head', 'dn_cfg', 'train_cfg', 'test_cfg',
}  # fmt: skip
_ENCODER = {'num_layers', 'layer_cfg'}
_DECODER = {'num_layers', 'layer_cfg', 'return_intermediate', 'post_norm_cfg'}


def _only(cfg: Mapping[str, Any], known: set[str]) -> dict:
    return {key: value for key, value in cfg.items() if key in known}


def stock_backbone_config(
    arch: str | Mapping[str, Any],
    patch_size: int,
    img_size: int,
    frozen_stages: int | str = -1,
    drop_path_rate: float = 0.0,
) -> dict:
    """Config of mmpretrain's ViT in the size of one of our backbones; arguments as for ``DINOv2``.

    Raises:
        InputError: If mmpretrain cannot freeze the same parts.
    """
    size = resolve_arch(arch if isinstance(arch, str) else dict(arch))
    if frozen_stages == 0:
        raise InputError('frozen_stages=0 freezes nothing in mmpretrain, so it cannot be compared')
    keys = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
    cfg = dict(
        type='mmpretrain.VisionTransformer',
        arch={key: size[key] for key in keys},
        # The grid of the position embedding, which ours keeps for every patch size.
        img_size=img_size // PRETRAIN_PATCH_SIZE * patch_size,
        patch_size=patch_size,
        out_type='featmap',
        layer_scale_init_value=size['layer_scale'],
        frozen_stages=size['num_layers'] if frozen_stages == 'all' else frozen_stages,
        drop_path_rate=drop_path_rate,
    )
    if size['ffn'] == 'swiglu':
        # mmpretrain takes the width before it is divided by the gate: 2/3, in steps of 8.
        cfg['arch']['feedforward_channels'] = size['feedforward_channels'] * 3 // 2
        cfg['layer_cfgs'] = dict(ffn_type='swiglu_fused')
    return cfg


def _has_cuda_operators() -> bool:
    """Whether mmcv was compiled with CUDA operators."""
    from mmcv.ops import get_compiling_cuda_version

    return get_compiling_cuda_version() != 'not available'


@MODELS.register_module()
class OneHotFocalLoss(FocalLoss):
    """mmdet's focal loss in PyTorch, for a GPU without mmcv's CUDA operators.

    mmdet takes its PyTorch version for one-hot targets.
    """

    def forward(self, pred: Tensor, target: Tensor, *args, **kwargs) -> Tensor:
        one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1]
        return super().forward(pred, one_hot, *args, **kwargs)
