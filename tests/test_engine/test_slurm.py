"""The launch scripts on a real Slurm cluster."""

import os
import re
import shutil
import subprocess
import time

import pytest

from ..test_resume.test_choose import assert_same, losses_of, states_of
from ..tools import ROOT, run_script, write_config
from .test_distributed import CURVE

START = ROOT.parent / 'shared/slurm/start-slurm.sh'
STOP = START.with_name('stop-slurm.sh')

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def slurm():
    """An environment in which Slurm's commands work."""
    env = dict(
        os.environ,
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
        GPUS='2',
        GPUS_PER_NODE='2',
        CPUS_PER_TASK='1',
        SLURM_TEST_DIR='/tmp/slurm-mmdet-dinov2',
        SLURM_TEST_PORT='18817',
        PATH=os.environ['PATH'] + ':/usr/local/sbin:/usr/sbin:/sbin',
    )
    if START.exists():
        started = subprocess.run([START], env=env, capture_output=True, text=True)
        if started.returncode:
            pytest.skip(f'Slurm could not be started: {started.stderr[-300:]}')
        env['SLURM_CONF'] = started.stdout.strip().partition('=')[2]
        yield env
        subprocess.run([STOP, '--purge'], env=env, check=True)
    elif shutil.which('sinfo') and subprocess.run(['sinfo'], capture_output=True).returncode == 0:
        yield env
    else:
        pytest.skip('there is no Slurm on this machine')


@pytest.fixture(scope='module')
def undisturbed(slurm, tmp_path_factory):
    """A run of two tasks in the foreground."""
    folder = tmp_path_factory.mktemp('slurm')
    config = write_config(folder, CURVE.replace('batch_size=4', 'batch_size=2'))
    result = run_script(
        ROOT / 'tools/slurm_train.sh', 'debug', 'test', config, folder / 'work',
        cwd=folder, env=slurm,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def wait_for(job: str, env: dict, seconds: float) -> str:
    """Waits for the end of a job and returns its state."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shown = subprocess.run(
            ['scontrol', 'show', 'job', '--oneliner', job], env=env, capture_output=True, text=True
        ).stdout
        state = re.search(r'JobState=(\w+)', shown).group(1)
        if state not in ('PENDING', 'RUNNING', 'COMPLETING', 'REQUEUED', 'CONFIGURING'):
            return state
        time.sleep(1)
    raise TimeoutError(f'job {job} did not end: {shown}')


def test_two_tasks_train(undisturbed):
    assert len(losses_of(undisturbed / 'work')) == 30


def test_two_nodes_train(slurm, undisturbed):
    result = run_script(
        ROOT / 'tools/slurm_train.sh', 'debug', 'test', undisturbed / 'tiny.py',
        undisturbed / 'nodes', cwd=undisturbed, env=dict(slurm, GPUS_PER_NODE='1'),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses_of(undisturbed / 'nodes') == losses_of(undisturbed / 'work')


def test_two_tasks_test(slurm, undisturbed):
    result = run_script(
        ROOT / 'tools/slurm_test.sh', 'debug', 'test', undisturbed / 'tiny.py',
        undisturbed / 'work/epoch_3.pth', '--work-dir', undisturbed / 'test',
        cwd=undisturbed, env=slurm,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'coco/bbox_mAP' in result.stdout + result.stderr


@pytest.mark.parametrize(
    'hook',
    [
        "dict(type='SignalAtStep', step=13, rank=1, name='SIGTERM')",
        "dict(type='SignalAtStep', step=20, rank=0, name='SIGUSR1')",
        "dict(type='RequeueAtStep', step=13)",
        "dict(type='SignalAtStep', step=13, rank=1, name='SIGKILL')",
    ],
    ids=['sigterm', 'end_of_epoch', 'requeue', 'sigkill'],
)
def test_batch_jobs_resume_by_themselves(slurm, undisturbed, tmp_path, hook):
    extra = CURVE.replace('batch_size=4', 'batch_size=2') + f'custom_hooks = [{hook}]\n'
    config = write_config(tmp_path, extra, data=undisturbed / 'shapes')
    submitted = run_script(
        ROOT / 'tools/slurm_train.sh', 'debug', 'test', config, tmp_path / 'work',
        cwd=tmp_path, env=dict(slurm, BATCH='1'),
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    job = re.search(r'Submitted batch job (\d+)', submitted.stdout).group(1)
    if 'SIGKILL' in hook:
        # No process is left to requeue the job, so somebody has to.
        assert wait_for(job, slurm, 120) == 'FAILED'
        subprocess.run(['scontrol', 'requeue', job], env=slurm, check=True)
    state = wait_for(job, slurm, 240)
    output = (tmp_path / 'work' / f'slurm-{job}.out').read_text()
    assert state == 'COMPLETED', output[-3000:]
    assert 'stopped.pth' in output or 'SIGKILL' in hook
    assert losses_of(tmp_path / 'work') == losses_of(undisturbed / 'work')
    assert_same(states_of(tmp_path / 'work'), states_of(undisturbed / 'work'))


def test_partitions_that_do_not_exist(slurm, undisturbed):
    result = run_script(
        ROOT / 'tools/slurm_train.sh', 'nowhere', 'test', undisturbed / 'tiny.py', 'work',
        cwd=undisturbed, env=slurm,
    )  # fmt: skip
    assert result.returncode == 2
    assert "partition 'nowhere' does not exist; this cluster has: debug" in result.stderr
