"""The configs of self-distillation: they build, name what runs, and can be trained."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdet_dinov2.config.own_types import use_own_types
from mmdet_dinov2.engine.training import check, set_up_training

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(ROOT.glob('configs/self_distillation/*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config(path, tmp_path):
    cfg = Config.fromfile(path)
    text = ast.get_docstring(ast.parse(path.read_text()))
    images = cfg.train_dataloader.batch_size * cfg.reference_world_size
    assert images == cfg.auto_scale_lr.base_batch_size and f'= {images}' in text
    assert f'self_distillation/{path.stem}' in text
    assert use_own_types(copy.deepcopy(cfg)) == []
    cfg.work_dir = str(tmp_path)
    cfg = set_up_training(cfg)
    check(cfg, ('train', 'val'), preflight=False)
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    assert Compose(cfg.train_dataloader.dataset.pipeline)
    assert cfg.train_dataloader.dataset.pipeline[-1].patch_size == model.backbone.patch_size
    groups = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer.param_groups
    rates = {name: group['lr'] for group in groups for name in group['names']}
    assert set(rates) == {n for n, p in model.named_parameters() if p.requires_grad}
    decays = {name: group['weight_decay'] for group in groups for name in group['names']}
    assert decays['student.dino_head.last_layer.weight'] == cfg.optim_wrapper.optimizer.weight_decay
    assert decays['student.backbone.blocks.0.norm1.weight'] == 0
    decay = cfg.optim_wrapper.paramwise_cfg.layer_decay_rate
    depth = len(model.backbone.blocks)
    ratio = rates['student.backbone.blocks.0.norm1.weight'] / max(rates.values())
    assert ratio == pytest.approx(decay**depth)
