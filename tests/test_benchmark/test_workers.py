"""Processes that keep a model: calls, answers, failures. They need the standard library alone."""

import sys
from pathlib import Path

import pytest

from mmdet_dinov2.benchmark import peer
from mmdet_dinov2.benchmark.isolated import CaseError
from mmdet_dinov2.benchmark.workers import Worker

PROGRAM = """
import os, sys, time
sys.path.insert(0, {folder!r})
from serving import serve

def build(start):
    print('models print this')
    if start is None:
        raise ValueError('no start')
    return dict(
        add=lambda number: start + number, fail=lambda: {{}}['key'], wait=lambda: time.sleep(60),
        variable=lambda: os.environ.get('OF_TEST'), end=lambda: sys.exit('the end')
    )

serve(build)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / 'program.py'
    path.write_text(PROGRAM.format(folder=str(Path(peer.__file__).parent)))
    return [str(path)]


def test_calls(program):
    with Worker(program, 30, sys.executable, dict(OF_TEST='1'), start=5) as worker:
        assert worker.call('add', number=2) == 7
        with pytest.raises(CaseError, match="KeyError: 'key'"):
            worker.call('fail')
        assert worker.call('add', number=3) == 8 and worker.call('variable') == '1'
        with pytest.raises(CaseError, match='the end'):
            worker.call('end')


def test_what_fails_or_takes_too_long(program):
    with Worker(program, 30, start=None) as worker:
        with pytest.raises(CaseError, match='ValueError: no start'):
            worker.call('add', number=1)
    with Worker(program, 0.5, start=1) as worker:
        with pytest.raises(CaseError, match=r'took longer than'):
            worker.call('wait')
    with Worker(['no such file.py'], 30, start=1) as worker:
        with pytest.raises(CaseError, match='No such file or directory'):
            worker.call('add', number=1)
