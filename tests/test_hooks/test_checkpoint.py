"""A checkpoint that loads is always there."""

import errno
import multiprocessing
import os
import random
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from mmdet_dinov2 import files
from mmdet_dinov2.engine.hooks.checkpoint import IntactCheckpointHook
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.files import write_checkpoint
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint


def stub_runner(work_dir):
    """What the hook needs of a runner."""
    MessageHub._instance_dict.clear()
    runner = SimpleNamespace(
        work_dir=str(work_dir),
        message_hub=MessageHub.get_instance('test'),
        logger=SimpleNamespace(info=lambda text: None, warning=lambda text: None),
        epoch=0,
        iter=0,
    )

    def save(out_dir, filename, *args, meta=None, **kwargs):
        state = dict(step=meta['epoch'], weights=torch.full((200_000,), float(meta['epoch'])))
        write_checkpoint(dict(meta=meta, state_dict=state), os.path.join(out_dir, filename))

    runner.save_checkpoint = save
    return runner


def ready_hook(runner, **options):
    hook = IntactCheckpointHook(interval=1, **options)
    hook.before_train(runner)
    return hook


def save_for_ever(work_dir):
    torch.set_num_threads(1)
    runner = stub_runner(work_dir)
    hook = ready_hook(runner, max_keep_ckpts=2)
    step = 0
    while True:
        step += 1
        hook._save_checkpoint_with_step(runner, step, dict(epoch=step, iter=step))


def test_killed_at_any_moment(tmp_path):
    # Forked from a process that has imported all but never used a thread of PyTorch.
    processes = multiprocessing.get_context('forkserver')
    processes.set_forkserver_preload([__name__])
    moments = random.Random(0)
    seen = set()
    for kill in range(20):
        work_dir = tmp_path / str(kill)
        work_dir.mkdir()
        child = processes.Process(target=save_for_ever, args=(work_dir,))
        child.start()
        end = time.monotonic() + 60
        while find_last_checkpoint(work_dir) is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        checkpoint = torch.load(find_last_checkpoint(work_dir))
        step = checkpoint['meta']['epoch']
        assert (checkpoint['state_dict']['weights'] == step).all()
        seen.add(tuple(sorted(path.suffix for path in work_dir.iterdir())))
    # Some were killed while a temporary file was there.
    assert any('.partial' in suffixes for suffixes in seen)


def test_the_newest_are_kept(tmp_path):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner, max_keep_ckpts=2)
    for step in (1, 2, 3, 3, 4):
        hook._save_checkpoint_with_step(runner, step, dict(epoch=step, iter=step))
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_3.pth', 'epoch_4.pth']
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3, 4]
    resumed = ready_hook(runner, max_keep_ckpts=2)
    resumed._save_checkpoint_with_step(runner, 5, dict(epoch=5, iter=5))
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_4.pth', 'epoch_5.pth']


def full_disk(checkpoint, path):
    with open(path, 'wb') as file:
        file.write(b'half')
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner, max_keep_ckpts=1, save_best='coco/bbox_mAP', rule='greater')
    hook._save_checkpoint_with_step(runner, 1, dict(epoch=1, iter=1))
    runner.epoch = 1
    hook._save_best_checkpoint(runner, {'coco/bbox_mAP': 0.1})
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(files, 'save_checkpoint', full_disk)
    with pytest.raises(
        InputError, match=r'epoch_2.pth could not be written \(No space left .* free'
    ):
        hook._save_checkpoint_with_step(runner, 2, dict(epoch=2, iter=2))
    runner.epoch = 2
    with pytest.raises(InputError, match='No space left'):
        hook._save_best_checkpoint(runner, {'coco/bbox_mAP': 0.2})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert torch.load(find_last_checkpoint(tmp_path))['meta']['epoch'] == 1


def test_the_best_one_replaces_the_previous(tmp_path):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner, save_best='coco/bbox_mAP', rule='greater')
    for epoch, score in ((1, 0.3), (2, 0.2), (3, 0.4)):
        runner.epoch = epoch
        hook._save_best_checkpoint(runner, {'coco/bbox_mAP': score})
    assert [p.name for p in tmp_path.glob('best_*')] == ['best_coco_bbox_mAP_epoch_3.pth']
