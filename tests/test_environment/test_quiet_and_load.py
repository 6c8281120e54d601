"""What is printed while modules are imported, and what other programs take."""

import subprocess
import sys
import time

import pytest

from mmdet_dinov2.environment import busy_cores, printed_without
from mmdet_dinov2.environment import load as load_module


def test_lines_are_left_out(capsys):
    with printed_without('needless', 'other'):
        print('one\nneedless words\ntwo')
    assert capsys.readouterr().out == 'one\ntwo\n'


def test_what_was_printed_before_an_error_is_shown(capsys):
    with pytest.raises(RuntimeError), printed_without('needless'):
        print('one')
        raise RuntimeError
    assert capsys.readouterr().out == 'one\n'


def test_a_busy_program_is_seen():
    if busy_cores(0.05) is None:
        pytest.skip('needs /proc/stat of Linux')
    program = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    try:
        time.sleep(0.3)
        assert busy_cores(0.5) > 0.3
    finally:
        program.kill()
        program.wait()


def test_shares_of_the_cores(monkeypatch):
    """30 of 100 ticks on 4 cores."""
    times = iter([(50, 100, 4), (80, 200, 4)])
    monkeypatch.setattr(load_module, '_cpu_times', lambda: next(times))
    assert busy_cores(0) == pytest.approx(1.2)


def test_another_system(monkeypatch):
    monkeypatch.setattr(load_module, '_cpu_times', lambda: None)
    assert busy_cores(0) is None
