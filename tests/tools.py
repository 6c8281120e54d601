"""Runs the command-line tools of the repository on tiny models and data."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from mmengine.logging import MessageHub, MMLogger

from mmdet_dinov2.cli import run
from mmdet_dinov2.drawing import BoxVisualizer

ROOT = Path(__file__).resolve().parents[1]

TINY_CONFIG = """
_base_ = '{root}/configs/dino_dinov2_quickstart.py'

data_root = '{data}/'
small = [dict(type='LoadImageFromFile'),
         dict(type='LoadAnnotations', with_bbox=True),
         dict(type='Resize', scale=(84, 84), keep_ratio=True),
         dict(type='PackDetInputs', meta_keys=(
             'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
sample_data = dict(root=data_root, num_train=8, num_val=4, seed=0)
dataset = dict(data_root=data_root, pipeline=small)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
width = 16
model = dict(
    num_queries=20,
    backbone=dict(arch=dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2,
                            feedforward_channels=32, ffn='mlp', layer_scale=1.0)),
    neck=dict(in_channels=32, out_channels=width),
    encoder=dict(num_layers=1, layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=width, num_heads=4),
        ffn_cfg=dict(embed_dims=width, feedforward_channels=32))),
    decoder=dict(num_layers=1, layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=width, num_heads=4),
        cross_attn_cfg=dict(embed_dims=width, num_heads=4),
        ffn_cfg=dict(embed_dims=width, feedforward_channels=32))),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(embed_dims=width),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=10)))
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=2, by_epoch=True, milestones=[1])]
default_hooks = dict(logger=dict(interval=1))
"""

# The recipe for own data with a tiny model, small images and 2 epochs.
TINY_OPTIONS = (
    'model.num_queries=20',
    'model.backbone.init_cfg=None',
    'model.backbone.global_attn_indexes=[1]',
    'model.backbone.arch._delete_=True',
    'model.backbone.arch.embed_dims=32',
    'model.backbone.arch.num_layers=2',
    'model.backbone.arch.num_heads=2',
    'model.backbone.arch.feedforward_channels=32',
    'model.backbone.arch.ffn=mlp',
    'model.backbone.arch.layer_scale=1.0',
    'model.neck.in_channels=32',
    'model.neck.out_channels=16',
    'model.encoder.num_layers=1',
    'model.encoder.layer_cfg.self_attn_cfg.embed_dims=16',
    'model.encoder.layer_cfg.ffn_cfg.embed_dims=16',
    'model.encoder.layer_cfg.ffn_cfg.feedforward_channels=32',
    'model.decoder.num_layers=1',
    'model.decoder.layer_cfg.self_attn_cfg.embed_dims=16',
    'model.decoder.layer_cfg.cross_attn_cfg.embed_dims=16',
    'model.decoder.layer_cfg.ffn_cfg.embed_dims=16',
    'model.decoder.layer_cfg.ffn_cfg.feedforward_channels=32',
    'model.positional_encoding.num_feats=8',
    'model.bbox_head.embed_dims=16',
    'model.dn_cfg.group_cfg.num_dn_queries=10',
    'model.test_cfg.max_per_img=20',
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.batch_size=8',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'val_dataloader.dataset.pipeline.1.scale=(112,112)',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'test_dataloader.dataset.pipeline.1.scale=(112,112)',
    'train_dataloader.dataset.pipeline.3.transforms.0.0.scales=[(112,112)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.0.scales=[(112,112)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.1.crop_size=(60,90)',
    'train_dataloader.dataset.pipeline.3.transforms.1.2.scales=[(84,84),(112,112)]',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
)


def write_config(folder: Path, extra: str = '', name: str = 'tiny.py', data: Path | None = None):
    """Writes a config with a tiny dataset and a tiny model; ``extra`` is appended to it."""
    path = folder / name
    path.write_text(TINY_CONFIG.format(root=ROOT, data=data or folder / 'shapes') + extra)
    return path


def run_tool(name: str, *args: object) -> None:
    """Runs ``tools/<name>.py`` in this process."""
    path = list(sys.path)
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        with _program(f'tools/{name}.py', *args):
            runpy.run_path(str(ROOT / 'tools' / f'{name}.py'), run_name='__main__')
    finally:
        sys.path[:] = path


def run_command(*args: object) -> None:
    """Runs ``mmdet_dinov2 ARGS`` in this process."""
    with _program('mmdet_dinov2', *args):
        run(sys.argv[1:])


@contextmanager
def _program(*argv: object) -> Iterator[None]:
    """Lets this process look like a new program."""
    # mmengine keeps these for the life of the process, which is a single run for a tool.
    for keeper in (BoxVisualizer, MessageHub, MMLogger):
        keeper._instance_dict.clear()
    before = sys.argv
    sys.argv = list(map(str, argv))
    try:
        yield
    finally:
        sys.argv = before


def failure_of(capfd: pytest.CaptureFixture, name: str, *args: object) -> str:
    """Runs a tool that must fail and returns its error message."""
    with pytest.raises(SystemExit) as caught:
        run_tool(name, *args)
    assert caught.value.code not in (0, None)
    printed = capfd.readouterr().err
    assert 'Traceback' not in printed
    assert printed.count('error: ') == 1, printed
    return printed[printed.index('error: ') :]


def run_script(*args: object, cwd: Path, env: dict | None = None) -> subprocess.CompletedProcess:
    """Runs a command and captures its output."""
    return subprocess.run(
        list(map(str, args)), cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )


def train_in_turns(trainings: Sequence[Sequence[object]], processes: int, cwd: Path) -> str:
    """Trains in turn in the processes of one launcher, each with one thread on a CPU.

    Args:
        trainings: Arguments of ``mmdet_dinov2 train`` of each training.
        processes: Number of processes.
        cwd: Folder to run in.

    Returns:
        What was printed.
    """
    arguments = [part for training in trainings for part in ('--', *training)]
    environment = dict(
        os.environ,
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join((str(ROOT), os.environ.get('PYTHONPATH', ''))),
    )
    result = run_script(
        sys.executable, '-m', 'torch.distributed.run', '--standalone',
        f'--nproc-per-node={processes}', '-m', 'tests.train_in_turns', *arguments,
        cwd=cwd, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr
