"""Exported files in the benchmark."""

import json

import pytest

from mmdet_dinov2.benchmark import exported as benchmark
from mmdet_dinov2.benchmark.exported import COMPILED, EAGER, installed_runtimes, measure_exported
from mmdet_dinov2.benchmark.machine import describe_machine
from mmdet_dinov2.benchmark.settings import Settings
from mmdet_dinov2.benchmark.tables import BenchmarkReport
from mmdet_dinov2.errors import InputError

from ..tools import failure_of


def test_rows_of_all_that_run(exported, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark.os, 'cpu_count', lambda: 1)
    # Compiled code has a test of its own.
    monkeypatch.setattr('mmdet_dinov2.layers.compiling._BACKEND', 'eager')

    def in_this_process(function, time_limit, **arguments):
        return function(**arguments)

    report = BenchmarkReport(
        tmp_path, 'exported', '', describe_machine('cpu'), echo=lambda line: None
    )
    settings = Settings(repeats=2, run_case=in_this_process)
    measure_exported(report, settings, [str(exported)], str(tiny / 'tiny.pth'), [(84, 70)], [2])
    (table,) = json.loads((tmp_path / 'exported.json').read_text())['tables']
    rows = {row['model']: row for row in table['rows']}
    runtimes = [f'tiny.onnx, {name}' for name in installed_runtimes(exported)]
    assert list(rows) == [EAGER, COMPILED, *runtimes]
    assert rows[EAGER]['/ eager']['median'] == 1
    for name in runtimes:
        assert rows[name]['ms a batch']['median'] > 0 and rows[name]['images/s'] > 0
        assert rows[name]['file MiB'] > 0 and 'PyTorch' in rows[name]['AP']
        assert rows[name]['size'] == '84x70' and rows[name]['threads'] == 1


def test_what_cannot_be_measured(exported, tiny, tmp_path, capfd):
    options = ['--work-dir', tmp_path / 'report', '--repeats', 1]
    message = failure_of(capfd, 'benchmark', exported, *options)
    assert 'exported files are measured at --sizes' in message
    message = failure_of(capfd, 'benchmark', exported, 'a', 'b', '--sizes', '84x84', *options)
    assert "compared with one checkpoint, got ['a', 'b']" in message
    message = failure_of(capfd, 'benchmark', exported, '--sizes', '20x84', *options)
    assert 'sides of at least 57 pixels' in message


def test_missing_runtimes(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match='a.xml needs openvino: pip install openvino'):
        installed_runtimes('a.xml')
