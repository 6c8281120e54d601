"""The table of types that run in place of those that a config names."""

import copy

import mmdet.registry
import mmengine.registry
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS

from mmdet_dinov2.config.own_types import EARLIER_NAMES, OWN_TYPES, own_type, use_own_types
from mmdet_dinov2.data.loading import CheckedLoadImageFromFile
from mmdet_dinov2.data.shapes_dataset import make_sample_data
from mmdet_dinov2.engine import StrictRunner
from mmdet_dinov2.engine.batch import EffectiveBatch
from mmdet_dinov2.engine.hooks import IntactCheckpointHook
from mmdet_dinov2.engine.resume.changes import describe_changes, training_settings
from mmdet_dinov2.errors import InputError

from ..tools import run_tool, write_config

REGISTRIES = [
    getattr(package, name)
    for package in (mmengine.registry, mmdet.registry)
    for name in (
        'DATASETS',
        'EVALUATOR',
        'HOOKS',
        'LOG_PROCESSORS',
        'LOOPS',
        'METRICS',
        'OPTIM_WRAPPERS',
        'OPTIM_WRAPPER_CONSTRUCTORS',
        'RUNNERS',
        'TRANSFORMS',
        'VISBACKENDS',
    )
]


def registered(name):
    (cls,) = {registry.get(name) for registry in REGISTRIES} - {None}
    return cls


@pytest.mark.parametrize('name', OWN_TYPES)
def test_own_types_do_what_the_replaced_ones_do(name):
    assert issubclass(registered(OWN_TYPES[name][0]), registered(name))


@pytest.mark.parametrize('name', EARLIER_NAMES)
def test_earlier_names_can_be_built_without_a_runner(name):
    assert registered(name) is registered(EARLIER_NAMES[name])


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('EMAHook', 'TrainedEMAHook'),
        ('mmengine.EMAHook', 'TrainedEMAHook'),
        (EMAHook, 'TrainedEMAHook'),
        ('DetectionEMAHook', 'TrainedEMAHook'),
        ('TrainedEMAHook', 'TrainedEMAHook'),
        ('other.EMAHook', 'other.EMAHook'),
        (LoadImageFromFile, 'mmdet_dinov2.LoadImageFromFile'),
        ('mmdet_dinov2.LoadImageFromFile', 'mmdet_dinov2.LoadImageFromFile'),
        (CheckedLoadImageFromFile, CheckedLoadImageFromFile),
        ('CocoDataset', 'CocoDataset'),
        (None, None),
    ],
)
def test_names_with_and_without_scope_and_classes(value, expected):
    assert own_type(value) == expected


def test_types_are_replaced_wherever_they_stand():
    load = dict(type='LoadImageFromFile', to_float32=True)
    nested = dict(type='RandomChoice', transforms=[[dict(type='mmcv.LoadImageFromFile')], [load]])
    inner = dict(type='DetectionCocoDataset', pipeline=[nested])
    cfg = Config(
        dict(
            runner_type='DetectionRunner',
            train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=inner)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2), timer=None),
            custom_hooks=[dict(type='NonFiniteHook'), dict(type=EMAHook)],
            optim_wrapper=dict(type='OptimWrapper', constructor='DetectionOptimWrapperConstructor'),
            val_evaluator=dict(type='Evaluator', metrics=[dict(type='DetectionCocoMetric')]),
        )
    )
    lines = use_own_types(cfg)
    checked = 'mmdet_dinov2.LoadImageFromFile'
    dataset = cfg.train_dataloader.dataset.dataset
    assert dataset.type == 'ClassNameCocoDataset'
    assert dataset.pipeline[0].transforms == [
        [dict(type=checked)],
        [dict(type=checked, to_float32=True)],
    ]
    assert cfg.default_hooks == dict(
        checkpoint=dict(type='IntactCheckpointHook', interval=2), timer=None
    )
    assert [hook.type for hook in cfg.custom_hooks] == ['NonFiniteHook', 'TrainedEMAHook']
    assert cfg.optim_wrapper == dict(
        type='GuardedOptimWrapper', constructor='LayerDecayOptimWrapperConstructor'
    )
    assert cfg.val_evaluator.metrics[0].type == 'ClassNameCocoMetric'
    assert cfg.runner_type == 'StrictRunner'
    assert len(lines) == 5
    assert (
        'TrainedEMAHook in place of EMAHook: it does not average frozen weights (custom_hooks.1)'
        in lines
    )
    place = 'train_dataloader.dataset.dataset.pipeline.0.transforms'
    (line,) = (line for line in lines if 'LoadImageFromFile' in line)
    assert line.endswith(f'({place}.0.0, {place}.1.0)')
    assert use_own_types(cfg) == []


def test_configs_of_this_project_name_what_runs(root):
    for path in sorted((root / 'configs').glob('*.py')):
        assert use_own_types(Config.fromfile(path)) == [], path.name


def test_the_log_tells_and_the_saved_config_holds_what_ran(tmp_path, capfd):
    extra = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
optim_wrapper = dict(type='OptimWrapper')
"""
    run_tool('train', write_config(tmp_path, extra), '--work-dir', tmp_path / 'work')
    printed = capfd.readouterr().out
    assert printed.count('Replaced types of the config: ') == 1
    assert 'EpochTrainLoop in place of EpochBasedTrainLoop: it counts optimizer steps' in printed
    saved = Config.fromfile(tmp_path / 'work' / 'tiny.py')
    assert saved.train_cfg.type == 'EpochTrainLoop'
    assert saved.optim_wrapper.type == 'GuardedOptimWrapper'
    assert saved.train_dataloader.dataset.pipeline[0].type == 'mmdet_dinov2.LoadImageFromFile'


def test_a_config_with_earlier_names_trains(tmp_path, capfd):
    extra = """
runner_type = 'DetectionRunner'
default_hooks = dict(checkpoint=dict(type='DetectionCheckpointHook'))
custom_hooks = [dict(type='DetectionEMAHook', momentum=0.01)]
optim_wrapper = dict(constructor='DetectionOptimWrapperConstructor')
val_evaluator = dict(type='DetectionEvaluator', metrics=[dict(type='DetectionCocoMetric')],
                     _delete_=True)
test_evaluator = val_evaluator
log_processor = dict(type='DetectionLogProcessor')
train_cfg = dict(max_epochs=1, val_interval=1)
"""
    config = write_config(tmp_path, extra)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    assert 'coco/bbox_mAP' in capfd.readouterr().out
    saved = (tmp_path / 'work' / 'tiny.py').read_text()
    assert not [name for name in EARLIER_NAMES if name in saved]
    # As mmdet's own tools do.
    cfg = Config.fromfile(config, import_custom_modules=False)
    cfg.work_dir = str(tmp_path / 'other')
    assert type(RUNNERS.build(cfg)) is StrictRunner


def test_a_resumed_run_does_not_report_replaced_types_as_changes():
    then = dict(
        custom_hooks=[dict(type='EMAHook')],
        optim_wrapper=dict(type=OptimWrapper, constructor='DetectionOptimWrapperConstructor'),
        train_cfg=dict(type='Custom'),
    )
    now = copy.deepcopy(then)
    use_own_types(now)
    now['train_cfg']['type'] = 'Other'
    meta = dict(settings=training_settings(Config(then)))
    rows, _ = describe_changes(meta, training_settings(Config(now)), EffectiveBatch(1, 2), None)
    assert [row.key for row in rows] == ['train_cfg.type']


def direct_runner(tmp_path, **settings):
    cfg = Config.fromfile(write_config(tmp_path))
    make_sample_data(cfg)
    return StrictRunner(
        cfg.model,
        str(tmp_path / 'work'),
        train_dataloader=cfg.train_dataloader,
        optim_wrapper=cfg.optim_wrapper,
        default_scope='mmdet',
        **settings,
    )


def test_a_runner_built_directly_refuses_loops_of_micro_batches(tmp_path):
    train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
    runner = direct_runner(tmp_path, train_cfg=train_cfg, experiment_name='direct')
    with pytest.raises(InputError, match='must be EpochTrainLoop, .* but is EpochBasedTrainLoop'):
        runner.train()


@pytest.mark.parametrize(
    ('hooks', 'expected'),
    [(None, [IntactCheckpointHook]), (dict(checkpoint=None), [])],
    ids=['not named', 'left out'],
)
def test_checkpoints_are_intact_if_no_hook_is_named(tmp_path, hooks, expected):
    runner = direct_runner(
        tmp_path,
        train_cfg=dict(max_epochs=1),
        default_hooks=hooks,
        experiment_name=f'hooks_{len(expected)}',
    )
    assert [type(hook) for hook in runner.hooks if isinstance(hook, CheckpointHook)] == expected
