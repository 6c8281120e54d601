"""How the processes of a run end."""

import subprocess
import sys

import pytest

from mmdet_dinov2 import cli
from mmdet_dinov2.errors import InputError

from ..tools import ROOT

# One line is printed at the shutdown of the interpreter, one by a function registered with atexit.
PROGRAM = """
import atexit, sys
import torch.distributed as dist
from mmdet_dinov2 import cli

class Last:
    def __del__(self):
        print('shut down')

last = Last()
atexit.register(print, 'registered')
dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)

def work():
    print('worked')
    {end}

cli.work_and_exit(work, {launcher!r})
"""


def run(launcher, end):
    result = subprocess.run(
        [sys.executable, '-c', PROGRAM.format(launcher=launcher, end=end)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return result.returncode, result.stdout.split('\n')[:-1], result.stderr


@pytest.mark.slow
def test_a_launched_process_ends_without_the_shutdown_of_the_interpreter():
    code, lines, errors = run('pytorch', 'pass')
    assert (code, lines) == (0, ['worked', 'registered']), errors


@pytest.mark.slow
def test_a_process_that_was_asked_to_stop_exits_with_the_code_for_it():
    assert run('slurm', 'sys.exit(75)')[:2] == (75, ['worked', 'registered'])


@pytest.mark.slow
def test_an_error_ends_as_usual():
    code, lines, errors = run('pytorch', '1 / 0')
    assert code == 1 and 'ZeroDivisionError' in errors
    assert lines == ['worked', 'registered', 'shut down']


def test_a_process_without_a_launcher_goes_on():
    done = []
    cli.work_and_exit(lambda: done.append(1), 'none')
    assert done == [1]
    with pytest.raises(SystemExit, match='75'):
        cli.work_and_exit(lambda: sys.exit(75), 'none')


def test_the_number_of_processes_is_that_of_the_launcher(monkeypatch):
    assert cli.launched_world_size('none') == 1
    monkeypatch.setenv('SLURM_NTASKS', '6')
    assert cli.launched_world_size('slurm') == 6
    monkeypatch.delenv('OMPI_COMM_WORLD_SIZE', raising=False)
    with pytest.raises(InputError, match='expects OMPI_COMM_WORLD_SIZE in the environment'):
        cli.launched_world_size('mpi')
