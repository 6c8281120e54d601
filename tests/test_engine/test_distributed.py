"""Several processes on the CPU, started by the launch scripts."""

import json
import os
import signal
import socket
import subprocess
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmdet_dinov2.checkpoint import read_checkpoint
from mmdet_dinov2.engine import StrictRunner

from ..recipe_parts import TOGETHER_TEXT
from ..test_resume.test_choose import losses_of
from ..tools import ROOT, run_script, run_tool, train_in_turns, write_config
from ..unlabeled import unlabeled_text

# 30 steps of 4 images, with everything that is random.
CURVE = """
sample_data = dict(root=data_root, num_train=40, num_val=4, seed=0)
dataset = dict(dataset, pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoiceResize', scales=[(56, 56), (70, 70)], keep_ratio=True),
    dict(type='PackDetInputs')])
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
model['backbone']['drop_path_rate'] = 0.2
train_cfg = dict(max_epochs=3, val_interval=4)
log_processor = dict(window_size=1)
auto_scale_lr = dict(base_batch_size=4)
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
"""


@pytest.fixture(scope='module')
def environment():
    """An environment with one thread for each process, on CPUs even where there are GPUs."""
    return dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')


def curves(folder, processes, *runs, steps=30):
    """Returns the losses of the steps of runs.

    Args:
        folder: Folder for the runs.
        processes: Number of processes.
        *runs: Batch size, options of the command and more of the config.
        steps: Number of steps of a run.
    """
    trainings = []
    for batch_size, options, extra in runs:
        name = f'{processes}x{batch_size}{len(options)}{len(extra)}'
        config = write_config(folder, CURVE + extra, name=f'{name}.py')
        options = [*options, '--cfg-options', f'train_dataloader.batch_size={batch_size}']
        trainings.append([config, '--work-dir', folder / name, *options])
    train_in_turns(trainings, processes, cwd=folder)
    found = [losses_of(training[2]) for training in trainings]
    assert all(len(losses) == steps for losses in found)
    return found


def largest_difference(first, second):
    """Returns the largest relative difference of a step."""
    return max(abs(first[step] - second[step]) / abs(second[step]) for step in second)


@pytest.mark.slow
def test_the_curve_does_not_depend_on_the_number_of_processes(tmp_path):
    forget = "custom_hooks = [dict(type='ForgetSeeds')]\n"
    parts, photos = TOGETHER_TEXT, unlabeled_text(labeled=20, times=2, burn_in=0.25)
    one, steps, one_with_parts, one_with_photos = curves(
        tmp_path, 1, (4, [], ''), (1, ['--keep-batch-size'], ''), (4, [], parts), (4, [], photos)
    )
    two, without, two_with_parts, two_with_photos = curves(
        tmp_path, 2, (2, [], ''), (2, [], forget), (2, [], parts), (2, [], photos)
    )
    (four,) = curves(tmp_path, 4, (1, [], ''))
    two, four, steps, without = (
        largest_difference(other, one) for other in (two, four, steps, without)
    )
    with_parts = largest_difference(two_with_parts, one_with_parts)
    # 12 steps with a teacher. It decides by thresholds, at which rounding may tip a box over.
    with_photos = largest_difference(
        {step: loss for step, loss in two_with_photos.items() if step <= 20},
        {step: loss for step, loss in one_with_photos.items() if step <= 20},
    )
    print(
        f'2 x 2: {two:.1e}, 4 x 1: {four:.1e}, 1 x 1 x 4: {steps:.1e}, own noise: {without:.1e}, '
        f'2 x 2 with all parts of a recipe: {with_parts:.1e}, with photos: {with_photos:.1e}'
    )
    assert max(two, four, steps, with_parts, with_photos) <= 1e-3
    assert without > 0.01


def test_two_processes_train(tmp_path, environment):
    config = write_config(tmp_path)
    work = tmp_path / 'work dir'  # a space, on purpose
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', work, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (log,) = work.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    # 8 images / (2 processes x batch 2) = 2 steps in each of 2 epochs
    assert len([record for record in records if 'loss' in record]) == 4
    assert any('coco/bbox_mAP' in record for record in records)


@pytest.mark.slow
def test_two_processes_test(tmp_path, environment):
    config = write_config(tmp_path)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    result = run_script(
        ROOT / 'tools/dist_test.sh', config, tmp_path / 'work/epoch_2.pth', 2, '--work-dir',
        tmp_path / 't', cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'coco/bbox_mAP' in result.stdout + result.stderr


@pytest.mark.slow
def test_an_error_is_printed_once(tmp_path, environment):
    config = write_config(tmp_path)
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work',
        '--cfg-options', 'model.backbone.window_size=4', cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count('error: window_size=4 needs global_attn_indexes') == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        ("dict(type='FailAtStep', step=2, rank=1)", 'the third wheel came off'),
        ("dict(type='SignalAtStep', step=2, rank=1, name='SIGKILL')", 'Signal 9 (SIGKILL)'),
    ],
)
def test_a_dying_process_ends_all(tmp_path, environment, hook, message):
    extra = f"""
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
custom_hooks = [{hook}]
"""
    config = write_config(tmp_path, extra)
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work',
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode != 0
    assert time.time() - float((tmp_path / 'work/fault').read_text()) < 30
    # Where both are seen dead at once, torchrun may call the process that lost its peer the first.
    failures = result.stderr[result.stderr.rindex('ChildFailedError') :]
    assert message in failures and 'rank      : 1' in failures


@pytest.mark.slow
def test_batches_without_boxes_on_one_process(tmp_path, environment):
    # Every 25th picture from the 13th on has no boxes: rank 0 of 2 gets one in a batch of 1.
    extra = """
sample_data = dict(root=data_root, num_train=14, num_val=4, seed=0)
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=2)
"""
    config = write_config(tmp_path, extra)
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work',
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(losses_of(tmp_path / 'work')) == 7


@pytest.mark.slow
def test_two_machines(tmp_path, environment):
    config = write_config(tmp_path)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    nodes = [
        subprocess.Popen(
            [ROOT / 'tools/dist_train.sh', config, '1', '--work-dir', tmp_path / 'work'],
            cwd=tmp_path,
            env=dict(environment, NNODES='2', NODE_RANK=rank, MASTER_ADDR='127.0.0.1', PORT=port),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in ('0', '1')
    ]
    errors = [node.communicate(timeout=300)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors[0][-3000:]
    assert len(losses_of(tmp_path / 'work')) == 4


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGUSR1'])
def test_a_signal_saves_and_ends_all(tmp_path, environment, name):
    extra = 'train_cfg = dict(max_epochs=1000, val_interval=1000)\n'
    config = write_config(tmp_path, extra)
    run = subprocess.Popen(
        [ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', tmp_path / 'work'],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    # Wait for the first steps.
    while not any(f.stat().st_size for f in tmp_path.glob('work/*/vis_data/scalars.json')):
        assert time.monotonic() < end
        time.sleep(0.5)
    start = time.monotonic()
    if name == 'SIGINT':
        os.killpg(run.pid, signal.SIGINT)  # what a terminal does
    else:
        os.kill(run.pid, getattr(signal, name))  # what a scheduler does
    assert run.wait(timeout=60) != 0
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):  # no process of the group is left
        time.sleep(1)
        os.killpg(run.pid, 0)
    stopped = tmp_path / 'work/stopped.pth'
    assert (tmp_path / 'work/last_checkpoint').read_text().strip() == str(stopped)
    steps = read_checkpoint(stopped)['meta']['iter']
    assert steps == max(losses_of(tmp_path / 'work'))


def test_processes_wait_for_a_long_evaluation(monkeypatch):
    given = {}
    monkeypatch.setattr(
        torch.distributed, 'init_process_group', lambda backend, **kwargs: given.update(kwargs)
    )
    env_cfg = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py').env_cfg
    runner = SimpleNamespace(cfg={}, distributed=True, launcher='pytorch')
    with pytest.raises(TypeError):  # mmengine's part needs a complete runner
        StrictRunner.setup_env(runner, env_cfg)
    assert given == dict(timeout=timedelta(hours=1))


def test_a_port_in_use(tmp_path, environment):
    config = write_config(tmp_path)
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_script(
            ROOT / 'tools/dist_train.sh', config, 2, cwd=tmp_path, env=dict(environment, PORT=port)
        )
    assert result.returncode == 2
    assert f'port {port} is in use' in result.stderr


@pytest.mark.slow
def test_more_processes_than_images(tmp_path, environment):
    extra = 'train_dataloader["dataset"] = dict(dataset, indices=1)\n'
    config = write_config(tmp_path, extra)
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work',
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode != 0
    assert 'the training data has 1 images, but there are 2 processes' in result.stderr


@pytest.mark.parametrize(
    ('script', 'args', 'message'),
    [
        ('dist_train.sh', (), 'CONFIG'),
        ('dist_train.sh', ('none.py', '2'), 'none.py'),
        ('dist_test.sh', ('none.py',), 'CHECKPOINT'),
        ('slurm_train.sh', ('debug',), 'PARTITION'),
        ('slurm_test.sh', (), 'PARTITION'),
    ],
)
def test_scripts_say_what_they_need(tmp_path, script, args, message):
    result = run_script(ROOT / 'tools' / script, *args, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr
