"""What the command lines share."""

import subprocess
import sys

import pytest

from mmdet_dinov2 import cli
from mmdet_dinov2.errors import InputError

from ..tools import ROOT

# A process that has what runs when Python is taken apart, and what runs before.
PROGRAM = """
import atexit, sys
import torch.distributed as dist
from mmdet_dinov2 import cli
from mmdet_dinov2.errors import InputError

class Last:
    def __del__(self):
        print('taken apart')

last = Last()
atexit.register(print, 'registered')
dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
with cli.joined_processes({launcher!r}):
    print('worked')
    {end}
"""


def run(launcher, end):
    result = subprocess.run(
        [sys.executable, '-c', PROGRAM.format(launcher=launcher, end=end)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return result.returncode, result.stdout.split('\n')[:-1], result.stderr


def test_a_launched_process_ends_without_taking_python_apart():
    code, lines, errors = run('pytorch', 'pass')
    assert (code, lines) == (0, ['worked', 'registered']), errors


def test_a_process_that_was_asked_to_stop_tells_so():
    assert run('slurm', 'sys.exit(75)')[:2] == (75, ['worked', 'registered'])


def test_an_error_ends_as_usual():
    code, lines, errors = run('pytorch', '1 / 0')
    assert code == 1 and 'ZeroDivisionError' in errors
    assert lines == ['worked', 'registered', 'taken apart']


def test_every_process_of_slurm_tells_what_it_met(monkeypatch, capsys, tmp_path):
    for variable in ('RANK', 'TORCHELASTIC_ERROR_FILE'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('SLURM_PROCID', '3')

    def fail():
        with pytest.raises(SystemExit), cli.one_sentence_errors():
            raise InputError('there is no disk')
        return capsys.readouterr().err

    assert fail() == 'error: (process 3) there is no disk\n'
    # torchrun shows the error of the process that failed first.
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    assert 'error: ' not in fail()
    assert 'there is no disk' in (tmp_path / 'error.json').read_text()


def test_a_process_alone_goes_on():
    with cli.joined_processes('none'):
        pass
    with pytest.raises(SystemExit, match='75'), cli.joined_processes('none'):
        raise SystemExit(75)
