"""Checkpoints of plain values: every program opens them, and a run resumes exactly."""

import collections
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.runner import Runner

from mmdet_dinov2.drawing import BoxVisualizer
from mmdet_dinov2.engine.resume.plain import HISTORIES, make_plain, restore_histories

from ..tools import run_tool, write_config
from .test_choose import assert_same, losses_of, states_of

PLAIN = (bool, int, float, str, type(None), torch.Tensor)
# 2 steps an epoch; the curve on the console is a mean over steps of both runs.
TEXT = """
train_dataloader['batch_size'] = 4
train_cfg = dict(max_epochs=3, val_interval=9)
log_processor = dict(window_size=4)
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01)]
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with a run of 3 epochs in ``work``."""
    folder = tmp_path_factory.mktemp('run')
    run_tool('train', write_config(folder, TEXT), '--work-dir', folder / 'work')
    return folder


@pytest.fixture
def work(run, tmp_path):
    """A copy of the work folder as it was after 2 epochs."""
    copy = tmp_path / 'work'
    shutil.copytree(run / 'work', copy)
    (copy / 'epoch_3.pth').unlink()
    (copy / 'last_checkpoint').write_text(str(copy / 'epoch_2.pth'))
    for log in copy.glob('*/vis_data/scalars.json'):
        log.unlink()
    return copy


def others(value, key=''):
    """Keys and types of values that are not plain."""
    if isinstance(value, dict):
        for name, item in value.items():
            assert type(name) in PLAIN, name
            yield from others(item, f'{key}.{name}')
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from others(item, f'{key}.{index}')
    elif type(value) not in PLAIN:
        yield key, type(value)


def test_pytorch_opens_checkpoints_as_it_does_by_default(run):
    with torch.serialization.safe_globals([]):
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            checkpoint = torch.load(run / 'work/epoch_3.pth', weights_only=True)
        finally:
            torch.serialization.add_safe_globals(before)
    assert list(others(checkpoint)) == []
    assert checkpoint['message_hub'][HISTORIES]['train/loss']['values'].shape == (6,)


def records_of(work_dir):
    """Returns all values that were logged at each step, without times."""
    rows = [
        json.loads(line)
        for log in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in log.read_text().splitlines()
    ]
    drop = ('time', 'data_time', 'memory')
    return {
        row['step']: {k: v for k, v in row.items() if k not in drop}
        for row in rows
        if 'loss' in row
    }


def test_a_run_resumes_exactly_with_its_history(run, work):
    run_tool('train', run / 'tiny.py', '--work-dir', work, '--resume')
    # Logged values are means over 4 steps, of which the first 2 or 3 were made before.
    expected = records_of(run / 'work')
    found = records_of(work)
    assert found == {step: expected[step] for step in (5, 6)}
    assert_same(states_of(work), states_of(run / 'work'))


def test_checkpoints_of_earlier_versions_resume(run, work):
    path = work / 'epoch_2.pth'
    checkpoint = torch.load(path)
    restore_histories(checkpoint['message_hub'])
    assert isinstance(checkpoint['message_hub']['log_scalars']['train/loss'], HistoryBuffer)
    checkpoint['message_hub']['runtime_info']['x'] = np.float64(1)
    torch.save(checkpoint, path)
    with pytest.raises(Exception, match='HistoryBuffer'):
        torch.load(path)
    run_tool('train', run / 'tiny.py', '--work-dir', work, '--resume')
    assert losses_of(work) == {step: losses_of(run / 'work')[step] for step in (5, 6)}
    assert_same(states_of(work), states_of(run / 'work'))


def test_mmengine_resumes_our_checkpoints(run, work, capfd):
    for keeper in (BoxVisualizer, MessageHub, MMLogger):
        keeper._instance_dict.clear()
    cfg = Config.fromfile(run / 'tiny.py')
    cfg.work_dir = str(work)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=9)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.optim_wrapper.type = 'OptimWrapper'
    for name in ('nonfinite', 'preemption', 'forecast', 'visualization', 'loader_memory'):
        del cfg.default_hooks[name]
    cfg.default_hooks.checkpoint = dict(type='mmengine.CheckpointHook')
    cfg.log_processor = dict(window_size=4)
    cfg.load_from, cfg.resume = str(work / 'epoch_2.pth'), True
    runner = Runner.from_cfg(cfg)
    assert type(runner) is Runner
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    printed = ''.join(capfd.readouterr())
    assert 'resumed epoch: 2, iter: 4' in printed
    assert 'is not defined in message_hub' not in printed
    logged = runner.message_hub.log_scalars['train/loss'].data[0]
    assert len(logged) == 2


class Strange:
    pass


def test_what_has_no_plain_form_is_named():
    shared = torch.zeros(2)
    scheduler = dict(milestones=collections.Counter([3]), anneal=len, last=np.float32(0.5))
    checkpoint = dict(
        state_dict=collections.OrderedDict(a=torch.nn.Parameter(shared), b=shared),
        param_schedulers=[scheduler],
        meta={'classes': ('a', 'b'), np.int64(3): np.arange(2), 'x': [Strange(), 1], 'y': Strange},
    )
    plain, left_out = make_plain(checkpoint)
    assert list(others(plain)) == []
    assert left_out == {
        'param_schedulers.0.anneal': 'builtin_function_or_method',
        'meta.x.0': 'Strange',
    }
    assert plain['param_schedulers'] == [dict(milestones={3: 1}, last=0.5)]
    assert plain['meta']['classes'] == ('a', 'b') and plain['meta']['x'] == [1]
    assert plain['meta'][3].tolist() == [0, 1]
    assert plain['state_dict']['a'].data_ptr() == plain['state_dict']['b'].data_ptr()
    assert checkpoint['meta']['y'] is Strange  # the original stays as it was


def test_histories_come_back_to_the_bit():
    buffers = dict(a=HistoryBuffer([0.1, 1 / 3], [1, 2]), b=HistoryBuffer([7], [1], max_length=5))
    hub = dict(
        log_scalars=dict(buffers), runtime_info={}, resumed_keys=dict.fromkeys(('a', 'b'), True)
    )
    plain, _ = make_plain(dict(message_hub=hub))
    assert hub['log_scalars'] == buffers  # the run goes on with them
    plain = plain['message_hub']
    assert plain['log_scalars'] == plain['resumed_keys'] == {}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        restore_histories(plain)
    assert plain['resumed_keys'] == dict(a=True, b=True) and HISTORIES not in plain
    for name, buffer in buffers.items():
        found = plain['log_scalars'][name]
        assert found.max_length == buffer.max_length
        for one, other in zip(found.data, buffer.data, strict=True):
            assert one.dtype == other.dtype and (one == other).all()
        found.update(3.0)
        assert found.current() == 3 and len(buffer.data[0]) < len(found.data[0])
