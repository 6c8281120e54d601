"""A tiny self-distillation through the tools, for tests."""

from __future__ import annotations

from pathlib import Path

from .tools import ROOT

CONFIG = """
_base_ = '{root}/configs/self_distillation/dinov2_quickstart.py'

sample_data = dict(root='{data}/', num_train=16, num_val=1, seed=0)
flip = dict(type='RandomFlip', prob=0.5)
small = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='mmpretrain.MultiView', num_views=[2, 2], transforms=[
        [dict(type='mmpretrain.RandomResizedCrop', scale=(42, 56)), flip],
        [dict(type='mmpretrain.RandomResizedCrop', scale=(28, 30)), flip]]),
    dict(type='PackCrops', patch_size=14, mask_prob=0.7, mask_ratio=(0.2, 0.6))]
train_dataloader = dict(
    batch_size=4, dataset=dict(data_root='{data}/train', pipeline=small))
model = dict(
    backbone=dict(drop_path_rate=0.2, num_registers=1, arch=dict(
        _delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32,
        ffn='mlp', layer_scale=1.0)),
    head=dict(num_prototypes=16, hidden=16, bottleneck=8))
train_cfg = dict(max_iters=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3),
    dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min_ratio=10.0,
         by_epoch=False, begin=0, end=6, T_max=6)]
custom_hooks = [
    dict(type='SelfDistillationHook', momentum=(0.98, 1.0), teacher_temperature=(0.03, 0.04),
         last_layer_freeze=0.2),
    dict(type='CollapseGuardHook')]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
log_processor = dict(window_size=1)
auto_scale_lr = dict(base_batch_size=4)
"""


def write_self_distillation(folder: Path, extra: str = '', name: str = 'tiny_ssl.py') -> Path:
    """Writes the config of a tiny self-distillation; ``extra`` is appended to it."""
    path = folder / name
    path.write_text(CONFIG.format(root=ROOT, data=folder / 'shapes') + extra)
    return path
