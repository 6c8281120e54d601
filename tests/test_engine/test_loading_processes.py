"""Loading processes end when the run ends them, not by a signal to the run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import DataLoader

from mmdet_dinov2.engine.loading_processes import outlive_signals

from ..test_resume.test_choose import STOPPED_EXIT_CODE
from ..tools import ROOT, write_config


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{pid}/stat') as stat:
        return stat.read().rpartition(')')[2].split()[0] != 'Z'


def both_at_work(loader):
    """Starts an iteration in which two processes have each loaded a batch."""
    batches = iter(loader)
    next(batches)
    next(batches)
    return batches


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs /proc')
@pytest.mark.parametrize('method', ['fork', pytest.param('forkserver', marks=pytest.mark.slow)])
def test_only_the_run_ends_its_loading_processes(method):
    loader = DataLoader(range(1000), num_workers=2, multiprocessing_context=method)
    assert outlive_signals(loader) is loader
    batches = both_at_work(loader)
    workers = [process.pid for process in batches._workers]
    for name in ('TERM', 'INT', 'USR1'):
        subprocess.run(['kill', f'-{name}', *map(str, workers)], check=True)
    time.sleep(0.5)
    assert all(map(alive, workers))
    assert sum(1 for _ in batches) == 998
    batches = both_at_work(loader)
    for process in batches._workers:
        process.terminate()
        process.join(timeout=10)
        assert process.exitcode == 0
    with pytest.raises(RuntimeError, match='exited unexpectedly'):
        list(batches)


def test_the_worker_init_fn_of_the_config_still_runs(tmp_path):
    def note(worker_id):
        (tmp_path / str(worker_id)).touch()

    list(outlive_signals(DataLoader(range(4), num_workers=2, worker_init_fn=note)))
    assert {path.name for path in tmp_path.iterdir()} == {'0', '1'}


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_run_saves_its_state(tmp_path):
    extra = """
train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=True, dataset=dataset)
train_cfg = dict(max_epochs=1000, val_interval=1000)
"""
    config = write_config(tmp_path, extra)
    environment = dict(
        os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''
    )
    with open(tmp_path / 'output', 'w') as output:
        run = subprocess.Popen(
            [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', tmp_path / 'work'],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + 120
    while not any(f.stat().st_size for f in tmp_path.glob('work/*/vis_data/scalars.json')):
        assert run.poll() is None and time.monotonic() < end, (tmp_path / 'output').read_text()
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(timeout=60) == STOPPED_EXIT_CODE, (tmp_path / 'output').read_text()[-3000:]
    assert (tmp_path / 'work/stopped.pth').is_file()
    with pytest.raises(ProcessLookupError):  # the loading processes have also ended
        time.sleep(1)
        os.killpg(run.pid, 0)
