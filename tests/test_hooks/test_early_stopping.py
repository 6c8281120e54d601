"""A training ends when it no longer improves, resumed or not."""

import shutil

import pytest

from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..test_resume.test_choose import losses_of
from ..tools import run_tool, write_config

# No evaluation improves by as much as `min_delta`.
STOPPING = """
sample_data = dict(root=data_root, num_train=2, num_val=2, seed=0)
train_cfg = dict(max_epochs=6, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=9))
custom_hooks = [dict(type='ResumableEarlyStoppingHook', monitor='coco/bbox_mAP', patience=2,
                     min_delta=10.0)]
"""
ITERATIONS = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=6, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, max_keep_ckpts=9))
param_scheduler = []
"""


@pytest.mark.parametrize(
    ('extra', 'name'),
    [('', 'epoch'), pytest.param(ITERATIONS, 'iter', marks=pytest.mark.slow)],
    ids=['epochs', 'iterations'],
)
def test_a_resumed_run_stops_where_the_undisturbed_one_does(tmp_path, extra, name):
    config = write_config(tmp_path, STOPPING + extra)
    whole = tmp_path / 'whole'
    run_tool('train', config, '--work-dir', whole)
    # The first evaluation is the best, and the two after it are not better.
    assert find_last_checkpoint(whole) == str(whole / f'{name}_3.pth')
    # Resumed from before the last evaluation, and from the end.
    for last, steps in ((2, {3}), (3, set())):
        work = tmp_path / f'from_{last}'
        shutil.copytree(whole, work, ignore=shutil.ignore_patterns('2*'))
        (work / 'last_checkpoint').write_text(str(work / f'{name}_{last}.pth'))
        run_tool('train', config, '--work-dir', work, '--resume')
        assert set(losses_of(work)) == steps
        assert find_last_checkpoint(work) == str(work / f'{name}_3.pth')
    # Unlike mmengine's hook, it does not need the training data for a test.
    (tmp_path / 'shapes/annotations/train.json').unlink()
    shutil.rmtree(tmp_path / 'shapes/train')
    run_tool('test', config, whole / f'{name}_1.pth', '--work-dir', tmp_path / 'test')
