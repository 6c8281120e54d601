"""Configs are formatted whatever other processes do to yapf's cache."""

import os
import subprocess
import sys

import pytest

from .tools import ROOT

MODULE = ROOT / 'mmdet_dinov2/engine/config_format.py'
# By its path: the package would take many seconds to import.
FORMAT = f"""
import runpy, sys
if sys.argv[1] == 'safe':
    runpy.run_path({str(MODULE)!r})['load_yapf']()
from mmengine.config import Config
print(Config(dict(a=dict(b=1))).pretty_text)
"""
# Stops where the file has its final name, but its content is still in a buffer.
SLOW = """
import os
rename = os.rename
def slow(source, target):
    rename(source, target)
    if os.path.getsize(target) == 0:  # small ones fit into the buffer
        print('renamed', flush=True)
        input()
os.rename = slow
"""


def start(code, way, cache):
    return subprocess.Popen(
        [sys.executable, '-c', code, way],
        env=dict(os.environ, XDG_CACHE_HOME=str(cache)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def format_config(way, cache):
    """Exit code and output of a process that formats a config."""
    process = start(FORMAT, way, cache)
    out, error = process.communicate(timeout=120)
    return process.returncode, out + error


@pytest.fixture(scope='module')
def truncated(tmp_path_factory):
    """A cache folder that a process left when it was killed."""
    cache = tmp_path_factory.mktemp('cache')
    killed = start(SLOW + FORMAT, 'plain', cache)
    assert killed.stdout.readline() == 'renamed\n'
    killed.kill()
    killed.communicate()
    assert any(path.stat().st_size == 0 for path in cache.rglob('*.pickle'))
    return cache


def test_a_truncated_cache_does_not_matter(truncated):
    code, text = format_config('plain', truncated)
    assert code != 0 and 'EOFError: Ran out of input' in text, 'the fault is not there to be mended'
    code, text = format_config('safe', truncated)
    assert code == 0 and 'a = dict(b=1)' in text, text


def test_processes_that_start_at_once(tmp_path):
    first = start(SLOW + FORMAT, 'plain', tmp_path)
    assert first.stdout.readline() == 'renamed\n'
    # While the first one is there, a second reads what it has not written yet.
    code, text = format_config('plain', tmp_path)
    assert code != 0 and 'EOFError: Ran out of input' in text, 'the fault is not there to be mended'
    code, text = format_config('safe', tmp_path)
    assert code == 0 and 'a = dict(b=1)' in text, text
    first.kill()
    first.communicate()


def test_nothing_is_left_in_the_cache_of_the_user(tmp_path):
    # Would stop for ever if it wrote the grammar.
    process = start(SLOW + FORMAT, 'safe', tmp_path)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0 and 'renamed' not in out, error
    assert list(tmp_path.iterdir()) == []
