"""The comparison of large datasets runs on a small one; its dataset and its measuring."""

import os
import sys
import time
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import psutil
import pytest

from mmdet_dinov2.benchmark.isolated import CaseError
from mmdet_dinov2.benchmark.machine import describe_machine
from mmdet_dinov2.benchmark.scale_data import make_scale_data, write_config
from mmdet_dinov2.benchmark.settings import Settings
from mmdet_dinov2.benchmark.suites import SUITES
from mmdet_dinov2.benchmark.suites.project_configs import QUICKSTART
from mmdet_dinov2.benchmark.suites.scale import add_growth
from mmdet_dinov2.benchmark.tables import NOT_MEASURED, BenchmarkReport
from mmdet_dinov2.benchmark.watched import (
    FIRST_STEPS,
    Watched,
    _kill_tree,
    tree_memory,
    watch_training,
)
from mmdet_dinov2.config.files import find_config
from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.engine.hooks.preemption import STOPPED_EXIT_CODE
from mmdet_dinov2.engine.log import ReadableLoggerHook
from mmdet_dinov2.errors import InputError

from ..tools import run_command
from .test_suites import run_here


def train_here(arguments, processes, time_limit):
    """Trains in this process until the first line about steps, then asks the run to stop."""
    hook = ReadableLoggerHook.after_train_iter

    def stop_after_a_line(self, runner, batch_idx, *args, **kwargs):
        hook(self, runner, batch_idx, *args, **kwargs)
        if self.every_n_inner_iters(batch_idx, self.interval):
            runner.train_loop.step.stop_requested = True

    begin = time.perf_counter()
    with mock.patch.object(ReadableLoggerHook, 'after_train_iter', stop_after_a_line):
        with pytest.raises(SystemExit) as stop:
            run_command('train', *arguments)
    assert stop.value.code == STOPPED_EXIT_CODE
    return Watched(time.perf_counter() - begin, 300.0, tree_memory(os.getpid()))


def test_scale(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr('mmdet_dinov2.benchmark.watched.watch_training', train_here)
    report = BenchmarkReport(tmp_path, 'scale', 'test', describe_machine('cpu'), lambda line: None)
    SUITES['scale'](report, Settings(dry_run=True, run_case=run_here))
    assert NOT_MEASURED not in report.as_markdown(), report.as_markdown()
    (table,) = report.tables
    rows = {row['measured']: row for row in table.rows}
    assert len(rows) == len(table.rows) == 9
    assert {row['images'] for row in table.rows} == {'200'}
    ap = rows.pop('AP of these')
    assert ap['ours'] == pytest.approx(ap['mmdet'], abs=5e-4) and ap['ours'] > 0.1
    for row in rows.values():
        assert row['ours'] > 0 and row['mmdet']
    printed = capfd.readouterr().out
    # The resumed run goes on from the middle: 200 images are 25 steps of 8.
    steps = [line for line in printed.splitlines() if FIRST_STEPS.search(line)]
    assert ['[10/25]' in line.replace(' ', '') for line in steps] == [True, True, False]
    assert '[1][20/25]' in steps[2]


def test_growth(tmp_path):
    report = BenchmarkReport(tmp_path, 'scale', 'test', describe_machine('cpu'), lambda line: None)
    figures = {200: (1.0, 2.0), 1000: (2.0, 3.0), 10_000: (11.0, 102.0)}
    add_growth(
        report,
        {size: {('start', 'ours'): a, ('start', 'mmdet'): b} for size, (a, b) in figures.items()},
    )
    (row,) = report.tables[0].rows
    assert (row['measured'], row['from'], row['to']) == ('start', '1000', '10000')
    # Ten times the images: ours is ten times as much above 200 images, mmdet a hundred times.
    assert (row['ours'], row['mmdet']) == pytest.approx((1, 2))


def test_sizes_that_cannot_be_compared(tmp_path):
    report = BenchmarkReport(tmp_path, 'scale', 'test', describe_machine('cpu'), lambda line: None)
    with pytest.raises(InputError, match='--images must be above 200'):
        SUITES['scale'](report, Settings(images=[5000, 100]))


@pytest.mark.slow
def test_a_watched_training(tmp_path):
    data = make_scale_data(tmp_path, 30)
    config = tmp_path / 'config.py'
    write_config(data, config, find_config(QUICKSTART), batch_size=2, workers=1, peer=False)
    arguments = [str(config), '--work-dir', str(tmp_path / 'run')]
    found = watch_training(arguments, processes=2, time_limit=300)
    assert 1 < found.seconds < 300 and 300 < found.mib <= found.peak_mib
    assert (tmp_path / 'run/stopped.pth').exists()
    with pytest.raises(CaseError, match='the command ended before the first steps: .*nothing.py'):
        watch_training([str(tmp_path / 'nothing.py')], processes=1, time_limit=300)


def test_a_training_ends_before_the_memory_of_the_machine_does(tmp_path, monkeypatch):
    memory = SimpleNamespace(available=7, total=100)
    monkeypatch.setattr('mmdet_dinov2.benchmark.watched.psutil.virtual_memory', lambda: memory)
    with pytest.raises(CaseError, match='needs more memory than this machine has, .* so far'):
        watch_training([str(tmp_path / 'nothing.py')], processes=1, time_limit=300)


def test_all_processes_end_with_their_launcher():
    sleep = 'import time; time.sleep(99)'
    launch = (
        'import subprocess, sys; '
        f'subprocess.Popen([sys.executable, "-c", {sleep!r}], start_new_session=True); {sleep}'
    )
    launcher = psutil.Popen([sys.executable, '-c', launch])
    while not launcher.children():
        time.sleep(0.05)
    (child,) = launcher.children()
    _kill_tree(launcher.pid)
    launcher.wait(10)
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive


def test_data_of_any_number_of_images(tmp_path):
    data = make_scale_data(tmp_path, 500, seed=3)
    columns = read_annotations(str(data.annotations('train')))
    assert columns.num_images == data.num_images == 500
    assert columns.num_annotations == data.num_boxes == round(500 * 860_001 / 118_287)
    assert 0 < columns.crowd.sum() < 100 and not columns.unlisted_images
    assert np.bincount(columns.image_index, minlength=500).min() == 0
    assert len(list((data.folder / 'photos').iterdir())) == 48
    for index in (0, 499):
        picture = cv2.imread(str(data.folder / 'train' / columns.file_names[index]))
        assert picture.shape[1::-1] == columns.size(index)
    limits = columns.boxes[:, :2] + columns.boxes[:, 2:]
    assert (limits <= columns.widths.max()).all()
    # It is made once, and the same again elsewhere.
    assert make_scale_data(tmp_path, 500, seed=3) == data
    again = make_scale_data(tmp_path / 'other', 500, seed=3)
    assert again.annotations('train').read_bytes() == data.annotations('train').read_bytes()
