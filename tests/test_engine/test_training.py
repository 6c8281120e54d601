"""Trainings that are started from Python."""

import os
import time
from types import SimpleNamespace

import pytest

import mmdet_dinov2
from mmdet_dinov2.engine.hooks.preemption import STOPPED_EXIT_CODE
from mmdet_dinov2.engine.runner import StrictRunner
from mmdet_dinov2.engine.training import build_runner, check, read_config
from mmdet_dinov2.errors import InputError

from ..tools import write_config


def test_a_training_returns_its_folder_and_scores(tmp_path, capsys):
    config = write_config(tmp_path)
    options = {'train_cfg.max_epochs': 2}
    first = mmdet_dinov2.train(str(config), work_dir=tmp_path / 'a', options=options)
    assert first.work_dir == str(tmp_path / 'a')
    assert 0 <= first.scores['coco/bbox_mAP'] <= first.scores['coco/bbox_mAP_50'] <= 1
    assert os.path.isfile(first.checkpoint)
    # The console has one screen before the first step, the log file everything.
    before, _, _ = capsys.readouterr().out.partition('Epoch(train)')
    (log,) = (tmp_path / 'a').glob('*/*.log')
    assert 'Effective batch' in before and 'Training data: 8 images' in before
    assert len(before.splitlines()) <= 25
    for hidden in ('System environment', 'Hooks will be executed', 'log_level = '):
        assert hidden in log.read_text() and hidden not in before
    # A notebook trains again in the same process: the second run has a log of its own.
    second = mmdet_dinov2.train(str(config), work_dir=tmp_path / 'b', options=options)
    assert second.scores == first.scores
    for folder in ('a', 'b'):
        (scalars,) = (tmp_path / folder).glob('*/vis_data/scalars.json')
        assert scalars.read_text().count('"loss"') == 8  # steps


def test_runs_of_the_same_second_have_logs_of_their_own(tmp_path, monkeypatch):
    config = str(write_config(tmp_path))
    monkeypatch.setattr(
        'mmengine.runner.runner.time',
        SimpleNamespace(time=lambda: 0.0, localtime=time.localtime, strftime=time.strftime),
    )
    runners = []
    for name in 'abc':
        cfg = read_config(config)
        cfg.work_dir = str(tmp_path / name)
        runners.append(build_runner(cfg))
    assert len({runner.experiment_name for runner in runners}) == 3
    assert len({runner.message_hub for runner in runners}) == 3
    for name, runner in zip('abc', runners, strict=True):
        backend = runner.visualizer.get_backend('LocalVisBackend')
        assert backend._save_dir.startswith(str(tmp_path / name))


def test_errors_are_exceptions(tmp_path):
    with pytest.raises(InputError, match='no_such_config does not exist'):
        mmdet_dinov2.train('no_such_config')
    with pytest.raises(FileNotFoundError, match='nothing_here'):
        mmdet_dinov2.train(
            'dino_dinov2_s_ft', tmp_path / 'nothing_here', work_dir=tmp_path / 'work'
        )
    with pytest.raises(InputError, match='logger must be'):
        mmdet_dinov2.train('dino_dinov2_quickstart', loggers=['tensorbord'])
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_training_is_an_interrupt(tmp_path, monkeypatch):
    config = write_config(tmp_path)

    def stop(runner):
        raise SystemExit(STOPPED_EXIT_CODE)

    monkeypatch.setattr(StrictRunner, 'train', stop)
    with pytest.raises(KeyboardInterrupt, match='resume=True continues'):
        mmdet_dinov2.train(str(config), work_dir=tmp_path / 'work')


def test_one_process_of_a_machine_checks_the_data(tmp_path, monkeypatch):
    cfg = read_config(str(write_config(tmp_path)))
    cfg.train_dataloader.dataset.ann_file = 'nowhere.json'
    monkeypatch.setenv('LOCAL_RANK', '1')
    check(cfg, ('train', 'val'))
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(InputError, match=r'nowhere\.json'):
        check(cfg, ('train', 'val'))
