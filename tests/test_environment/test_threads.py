"""Variables that are set before torch is loaded."""

import os
import subprocess
import sys

import pytest

from mmdet_dinov2.environment import limit_spinning


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, '1000'),
        ({'GOMP_SPINCOUNT': '7'}, '7'),
        ({'OMP_WAIT_POLICY': 'PASSIVE'}, None),
    ],
)
def test_threads_that_wait_give_their_core_away(monkeypatch, given, expected):
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    limit_spinning()
    assert os.environ.get('GOMP_SPINCOUNT') == expected
    monkeypatch.delenv('GOMP_SPINCOUNT', raising=False)


def test_the_package_sets_them_before_torch(root):
    """An import of torch that fails ends the import of the package, after the variable is set."""
    code = """
import os, sys
sys.modules['torch'] = None
try:
    import mmdet_dinov2
except ImportError:
    print(os.environ['GOMP_SPINCOUNT'])
"""
    env = {k: v for k, v in os.environ.items() if k not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=root, env=env, capture_output=True, text=True
    )
    assert result.stdout == '1000\n', result.stderr
