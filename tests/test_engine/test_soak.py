"""A long run that is killed, stopped and resumed ends where an undisturbed run does.

Settings in the environment, with their defaults:

SOAK_STEPS       number of steps of a run (1000)
SOAK_MODEL       'tiny', or 'quickstart' for the model and the pictures of the quick start
SOAK_BAD_IMAGES  number of training images that are cut off in both runs (2)

For example: ``SOAK_MODEL=quickstart pytest -m slow -s tests/test_engine/test_soak.py``.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from mmdet_dinov2.engine.hooks.preemption import STOPPED_EXIT_CODE

from ..test_resume.test_choose import assert_same, losses_of, states_of
from ..tools import ROOT, write_config

STEPS = int(os.environ.get('SOAK_STEPS', 1000))
MODEL = os.environ.get('SOAK_MODEL', 'tiny')
BAD_IMAGES = int(os.environ.get('SOAK_BAD_IMAGES', 2))
INTERVAL = max(1, STEPS // 10)
WARM_UP = max(1, STEPS // 20)
# MiB that a process may grow from the first half of its steps to the second.
MOST_GROWTH = 50

SOAK = f"""
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
train_cfg = dict(_delete_=True, type='IterTrainLoop', max_iters={STEPS}, val_interval={STEPS},
                 max_bad_share={0.5 if BAD_IMAGES else 0.001})
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end={WARM_UP}),
                   dict(type='CosineAnnealingLR', by_epoch=False, begin={WARM_UP}, end={STEPS},
                        T_max={STEPS - WARM_UP}, eta_min_ratio=0.01)]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=False, interval={INTERVAL}, max_keep_ckpts=2))
log_processor = dict(window_size=1, by_epoch=False)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
"""
# Batches of one small image, with everything that is random.
TINY = """
sample_data = dict(root=data_root, num_train=20, num_val=4, seed=0)
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(
    dataset, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomChoiceResize', scales=[(42, 42), (56, 56)], keep_ratio=True),
        dict(type='PackDetInputs')]))
val_dataloader['dataset'] = dataset
test_dataloader = val_dataloader
"""
QUICKSTART = """
_base_ = '{root}/configs/dino_dinov2_quickstart.py'
sample_data = dict(root='{data}/')
train_dataloader = dict(dataset=dict(data_root='{data}/'))
val_dataloader = dict(dataset=dict(data_root='{data}/'))
test_dataloader = val_dataloader
"""


def config_of(folder, data, name, hook=''):
    extra = SOAK + (f'custom_hooks = [{hook}]\n' if hook else '')
    if MODEL == 'tiny':
        return write_config(folder, TINY + extra, name=name, data=data)
    path = folder / name
    path.write_text(QUICKSTART.format(root=ROOT, data=data) + extra)
    return path


def start(config, work, *options):
    environment = dict(
        os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)
    )
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work, *options]
    work.mkdir(exist_ok=True)
    with open(work / 'output.txt', 'a') as output:
        return subprocess.Popen(
            list(map(str, command)),
            cwd=config.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def finish(process, work, code=0):
    assert process.wait() == code, (work / 'output.txt').read_text()[-3000:]


def spoil(data):
    """Cuts off the files of the first images."""
    for path in sorted((data / 'train').iterdir())[:BAD_IMAGES]:
        path.write_bytes(path.read_bytes()[:100])


def memory_of(work):
    """Returns the MiB that each process of a run holds after each pass, and its peak in a step.

    Freed memory is returned after a pass. Within a pass, the C library keeps some of it, and more
    of it while image sizes are new. The test therefore compares the former, not the peaks.
    """
    held, peaks = [], []
    for log in sorted(work.glob('*/vis_data/scalars.json')):
        rows = [json.loads(line) for line in log.open()]
        after_passes = [row['memory/main_mib'] for row in rows if 'memory/main_mib' in row]
        if len(after_passes) >= 4:
            held.append(after_passes)
            peaks.append(max(row['memory'] for row in rows if 'loss' in row))
    return held, peaks


def growth(held):
    """Returns how much more the second half holds than the first."""
    half = len(held) // 2
    return min(held[half:]) - min(held[:half])


@pytest.mark.slow
def test_killed_and_stopped_runs_end_where_the_undisturbed_one_does(tmp_path):
    data = tmp_path / 'shapes'
    plain = config_of(tmp_path, data, 'plain.py')
    if BAD_IMAGES:
        made = start(plain, tmp_path / 'made', '--cfg-options', 'train_cfg.max_iters=0')
        finish(made, tmp_path / 'made')
        spoil(data)
    options = ['--no-preflight'] if BAD_IMAGES else []
    undisturbed = start(plain, tmp_path / 'undisturbed', *options)  # side by side

    work = tmp_path / 'disturbed'
    # Killed within an interval of checkpoints, and asked to stop in a later one.
    for name, step, code in (
        ('SIGKILL', INTERVAL * 3 + INTERVAL // 2, -signal.SIGKILL),
        ('SIGTERM', INTERVAL * 7 + INTERVAL // 3, STOPPED_EXIT_CODE),
    ):
        hook = f"dict(type='SignalAtStep', step={step}, name='{name}')"
        stopped = config_of(tmp_path, data, f'{name}.py', hook)
        finish(start(stopped, work, '--resume', *options), work, code)
    finish(start(plain, work, '--resume', *options), work)
    finish(undisturbed, tmp_path / 'undisturbed')

    expected, losses = losses_of(tmp_path / 'undisturbed'), losses_of(work)
    assert len(expected) == STEPS
    assert losses == expected
    assert_same(states_of(work), states_of(tmp_path / 'undisturbed'))
    (held, peaks), (more_held, more_peaks) = map(memory_of, (tmp_path / 'undisturbed', work))
    held, peaks = held + more_held, peaks + more_peaks
    ends = [(round(h[0]), round(h[-1])) for h in held]
    print(
        f'last loss {losses[STEPS]:.4f}; MiB of each process: after the first and the last pass '
        f'{ends}, growth {[round(growth(h)) for h in held]}, most in a step {peaks}'
    )
    assert max(map(growth, held), default=0) <= MOST_GROWTH
    if STEPS < 500:
        return
    assert len(held) == 4
    # The model has learned something.
    tenth = STEPS // 10
    mean = [sum(losses[s] for s in part) / tenth for part in (range(1, tenth + 1),
            range(STEPS - tenth + 1, STEPS + 1))]  # fmt: skip
    assert mean[1] < mean[0]
