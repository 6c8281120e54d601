"""One checkpoint always loads."""

import errno
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from mmdet_dinov2 import files
from mmdet_dinov2.engine.hooks.checkpoint import IntactCheckpointHook
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.files import write_checkpoint
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

METRICS = ('coco/bbox_mAP', 'coco/bbox_mAP_50')


def stub_runner(work_dir):
    """Returns what the hook needs of a runner."""
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


def save(hook, runner, epoch):
    """Saves the checkpoint of an epoch, as a training does at its end."""
    runner.epoch = epoch - 1
    hook.after_train_epoch(runner)
    runner.epoch = epoch


def save_forever(work_dir):
    torch.set_num_threads(1)
    runner = stub_runner(work_dir)
    hook = ready_hook(runner, max_keep_ckpts=2)
    step = 0
    while True:
        step += 1
        save(hook, runner, step)


def kill_at_random_moments(tmp_path):
    """Kills processes that save; returns which kinds of files each has left."""
    processes = multiprocessing.get_context('fork')
    moments = random.Random(0)
    seen = set()
    for kill in range(20):
        work_dir = tmp_path / str(kill)
        work_dir.mkdir()
        child = processes.Process(target=save_forever, args=(work_dir,))
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
    return seen


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    # Forked from a process that has imported everything but has not used a thread of PyTorch.
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, spawn) as process:
        seen = process.submit(kill_at_random_moments, tmp_path).result()
    # Some were killed while a temporary file was present.
    assert any('.partial' in suffixes for suffixes in seen)


def test_the_newest_are_kept(tmp_path):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner, max_keep_ckpts=2)
    for step in (1, 2, 3, 3, 4):
        save(hook, runner, step)
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_3.pth', 'epoch_4.pth']
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3, 4]
    resumed = ready_hook(runner, max_keep_ckpts=2)
    save(resumed, runner, 5)
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_4.pth', 'epoch_5.pth']


def full_disk(checkpoint, path):
    with open(path, 'wb') as file:
        file.write(b'half')
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner, max_keep_ckpts=1, save_best='coco/bbox_mAP', rule='greater')
    save(hook, runner, 1)
    runner.epoch = 1
    hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.1})
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(files, 'save_checkpoint', full_disk)
    with pytest.raises(
        InputError, match=r'epoch_2.pth could not be written \(No space left .* free'
    ):
        save(hook, runner, 2)
    runner.epoch = 2
    with pytest.raises(InputError, match='No space left'):
        hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.2})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert torch.load(find_last_checkpoint(tmp_path))['meta']['epoch'] == 1


@pytest.mark.parametrize(
    'save_best', ['auto', 'coco/bbox_mAP', ['coco/bbox_mAP', 'coco/bbox_mAP_50']]
)
def test_a_better_checkpoint_replaces_the_best_one(tmp_path, save_best):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner, save_best=save_best, rule='greater')
    # The second metric is best in the second epoch.
    for epoch, scores in ((1, (0.3, 0.3)), (2, (0.2, 0.5)), (3, (0.4, 0.4))):
        save(hook, runner, epoch)
        hook.after_val_epoch(runner, dict(zip(METRICS, scores, strict=True)))
    best = {'best_coco_bbox_mAP_epoch_3.pth'}
    if isinstance(save_best, list):
        best.add('best_coco_bbox_mAP_50_epoch_2.pth')
    assert {path.name for path in tmp_path.glob('best_*')} == best
    # A resumed run knows the best one.
    resumed = ready_hook(runner, save_best=save_best, rule='greater')
    runner.epoch = 4
    resumed.after_val_epoch(runner, dict(zip(METRICS, (0.6, 0.6), strict=True)))
    assert all(path.name.endswith('epoch_4.pth') for path in tmp_path.glob('best_*'))
    assert len(list(tmp_path.glob('best_*'))) == len(best)


def test_without_a_metric_no_best_checkpoint_is_saved(tmp_path):
    runner = stub_runner(tmp_path)
    hook = ready_hook(runner)
    save(hook, runner, 1)
    hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.3})
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
