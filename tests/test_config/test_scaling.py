"""Configs at a different number of processes."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_dinov2.config.scaling import auto_scale_world_size, format_table
from mmdet_dinov2.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def d2go_config() -> Config:
    """A config with the settings of d2go's published table."""
    return Config(
        dict(
            reference_world_size=64,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            train_dataloader=dict(batch_size=2),
            auto_scale_lr=dict(base_batch_size=128),
            train_cfg=dict(
                type='IterTrainLoop',
                max_iters=90000,
                val_interval=5000,
                dynamic_intervals=[(80000, 1000)],
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
                dict(type='MultiStepLR', by_epoch=False, milestones=[60000, 80000]),
            ],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5000),
                logger=dict(type='LoggerHook', interval=50),
            ),
            custom_hooks=[dict(type='EMAHook', momentum=0.0002, begin_iter=500)],
        )
    )


def test_published_table_from_64_to_1():
    cfg, rows = auto_scale_world_size(d2go_config(), 1)
    assert cfg.optim_wrapper.optimizer.lr == 0.00015625
    assert cfg.train_cfg.max_iters == 5760000
    assert cfg.param_scheduler[1].milestones == [3840000, 5120000]
    assert cfg.param_scheduler[0].end == 64000
    table = {row.key: (row.old, row.new) for row in rows}
    assert table == {
        'reference_world_size': (64, 1),
        'optim_wrapper.optimizer.lr': (0.01, 0.00015625),
        'images per step': (128, 2),
        'auto_scale_lr.base_batch_size': (128, 2),
        'train_cfg.max_iters': (90000, 5760000),
        'train_cfg.val_interval': (5000, 320000),
        'train_cfg.dynamic_intervals': ([(80000, 1000)], [(5120000, 64000)]),
        'param_scheduler.0.end': (1000, 64000),
        'param_scheduler.1.milestones': ([60000, 80000], [3840000, 5120000]),
        'default_hooks.checkpoint.interval': (5000, 320000),
        'custom_hooks.0.begin_iter': (500, 32000),
        'custom_hooks.0.momentum': (0.0002, pytest.approx(0.0002 / 64, rel=1e-3)),
    }
    text = format_table(rows)
    assert text.splitlines()[1].split() == ['|', 'key', '|', 'old', '|', 'new', '|']
    assert all(f'| {row.key} ' in text for row in rows)


@pytest.mark.parametrize('rule', ['linear', 'sqrt', 'none'])
@pytest.mark.parametrize('sizes', [(2, 8), (3, 7), (8, 1)])
def test_scaling_there_and_back_gives_the_original(rule, sizes):
    start, other = sizes
    original = d2go_config()
    original.reference_world_size = start
    # Numbers of iterations that stay whole at both sizes.
    original.merge_from_dict({'train_cfg.max_iters': 84000, 'train_cfg.val_interval': 4200})
    original.param_scheduler[1].milestones = [63000, 75600]
    original.param_scheduler[0].end = 1064
    original.default_hooks.checkpoint.interval = 4200
    original.train_cfg.dynamic_intervals = [(75600, 2100)]
    original.custom_hooks[0].begin_iter = 420
    before = copy.deepcopy(original)
    scaled, _ = auto_scale_world_size(original, other, rule)
    assert original.to_dict() == before.to_dict()
    assert scaled.to_dict() != before.to_dict()
    back, _ = auto_scale_world_size(scaled, start, rule)
    assert back.to_dict() == before.to_dict()


def test_same_world_size_changes_nothing():
    cfg, rows = auto_scale_world_size(d2go_config(), 64)
    assert rows == []
    assert cfg.to_dict() == d2go_config().to_dict()


@pytest.mark.parametrize(
    ('optimizer', 'rule', 'expected'),
    [
        ('SGD', None, 4e-4),
        ('AdamW', None, 2e-4),
        ('AdamW', 'linear', 4e-4),
        ('AdamW', 'none', 1e-4),
        ('SGD', 'sqrt', 2e-4),
    ],
)
def test_lr_rules(optimizer, rule, expected):
    cfg = d2go_config()
    cfg.reference_world_size = 2
    cfg.optim_wrapper.optimizer = dict(type=optimizer, lr=1e-4)
    assert auto_scale_world_size(cfg, 8, rule)[0].optim_wrapper.optimizer.lr == expected
    cfg.auto_scale_world_size = dict(lr_rule=rule)
    assert auto_scale_world_size(cfg, 8)[0].optim_wrapper.optimizer.lr == expected


def test_epochs_stay_and_warm_up_iterations_are_rescaled():
    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_ft_12ep.py')
    scaled, rows = auto_scale_world_size(cfg, 1)
    assert scaled.train_cfg.max_epochs == 12
    assert scaled.param_scheduler[0].end == 1000
    assert scaled.param_scheduler[1].milestones == [11]
    assert scaled.optim_wrapper.optimizer.lr == 5e-5
    assert {row.key for row in rows} == {
        'reference_world_size',
        'optim_wrapper.optimizer.lr',
        'images per step',
        'auto_scale_lr.base_batch_size',
        'param_scheduler.0.end',
    }


def without_reference() -> Config:
    cfg = d2go_config()
    cfg.pop('reference_world_size')
    return cfg


@pytest.mark.parametrize(
    ('cfg', 'world_size', 'rule', 'message'),
    [
        (d2go_config(), 0, None, 'world size must be .* but is 0'),
        (d2go_config(), -4, None, 'world size must be .* but is -4'),
        (d2go_config(), 2.5, None, 'world size must be .* but is 2.5'),
        (without_reference(), 4, None, 'needs reference_world_size=N'),
        (Config(dict(reference_world_size=-1)), 4, None, 'reference_world_size must be .* is -1'),
        (d2go_config(), 4, 'square', "must be one of none, linear, sqrt, but is 'square'"),
    ],
)
def test_bad_input(cfg, world_size, rule, message):
    with pytest.raises(InputError, match=message):
        auto_scale_world_size(cfg, world_size, rule)
