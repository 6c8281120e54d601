"""Experiment loggers: what is added to a config, and what arrives at the loggers."""

import importlib.util
import json
import os
import struct
import sys

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger

from mmdet_dinov2.config.loggers import LOGGERS, add_loggers
from mmdet_dinov2.drawing import BoxVisualizer
from mmdet_dinov2.engine import StrictRunner
from mmdet_dinov2.errors import InputError

from ..tools import write_config

VARIABLES = (
    'MLFLOW_ALLOW_FILE_STORE',
    'MLFLOW_EXPERIMENT_NAME',
    'MLFLOW_TRACKING_URI',
    'WANDB_NAME',
    'WANDB_PROJECT',
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, '')  # so that it is restored even if it was not set
        monkeypatch.delenv(name)


@pytest.fixture
def all_installed(monkeypatch):
    any_module = importlib.util.find_spec('json')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: any_module)


def config(*backends, **others):
    visualizer = dict(type='BoxVisualizer', name='visualizer', vis_backends=list(backends))
    return Config(dict(visualizer=visualizer, work_dir='work_dirs/mine', **others))


def types(cfg):
    return [backend['type'] for backend in cfg.visualizer.vis_backends]


def test_each_logger_is_added_once(all_installed):
    cfg = config(dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend'))
    add_loggers(cfg, ['mlflow', 'tensorboard', 'wandb', 'mlflow'])
    expected = ['LocalVisBackend', 'TensorboardVisBackend']
    assert types(cfg) == [*expected, 'MLflowVisBackend', 'NoCodeWandbVisBackend']
    add_loggers(cfg, LOGGERS)
    assert types(cfg)[4:] == ['ClearMLVisBackend']
    wandb = cfg.visualizer.vis_backends[3]
    assert wandb.save_dir == 'work_dirs/mine'
    assert wandb.init_kwargs == dict(project='mmdet_dinov2', name='mine')
    assert cfg.visualizer.vis_backends[2].save_dir == 'work_dirs/mine/mlruns'


@pytest.mark.parametrize('name', ['WandbVisBackend', 'mmengine.WandbVisBackend'])
def test_backends_of_the_config_stay_as_they_are(all_installed, name):
    mine = dict(type=name, init_kwargs=dict(project='mine'))
    cfg = config(mine)
    add_loggers(cfg, ['wandb'])
    assert cfg.visualizer.vis_backends == [mine]


def test_a_config_without_a_visualizer(all_installed):
    cfg = Config(dict(work_dir='work_dirs/mine'))
    add_loggers(cfg, ['tensorboard'])
    assert cfg.visualizer.type == 'BoxVisualizer'
    assert types(cfg) == ['LocalVisBackend', 'TensorboardVisBackend']


def test_variables_of_the_loggers_have_precedence(all_installed, monkeypatch):
    monkeypatch.setenv('WANDB_PROJECT', 'birds')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://server:5000')
    monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'birds')
    cfg = config()
    add_loggers(cfg, ['wandb', 'mlflow'])
    _, wandb, mlflow = cfg.visualizer.vis_backends
    assert wandb.init_kwargs == dict(name='mine')
    assert mlflow.tracking_uri == 'http://server:5000' and mlflow.exp_name == 'birds'
    assert 'save_dir' not in mlflow and 'MLFLOW_ALLOW_FILE_STORE' not in os.environ


@pytest.mark.parametrize('folder', [False, True])
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, folder):
    """A folder of the same name, such as the one W&B writes to, is not the package."""
    monkeypatch.delitem(sys.modules, 'clearml', raising=False)
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    if folder:
        (tmp_path / 'clearml').mkdir()
    cfg = config(dict(type='LocalVisBackend'))
    with pytest.raises(InputError, match='is not installed; run: pip install clearml$'):
        add_loggers(cfg, ['clearml'])
    assert types(cfg) == ['LocalVisBackend']


def test_unknown_loggers_are_refused():
    with pytest.raises(InputError, match="tensorboard, wandb, mlflow, clearml, but is 'neptune'"):
        add_loggers(config(), ['neptune'])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A training of 4 steps and an evaluation with the loggers that are installed."""
    folder = tmp_path_factory.mktemp('run')
    cfg = Config.fromfile(write_config(folder))
    cfg.work_dir = str(folder / 'mine')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    for keeper in (BoxVisualizer, MessageHub, MMLogger):
        keeper._instance_dict.clear()
    offline = dict(
        MLFLOW_DISABLE_TELEMETRY='true',
        WANDB_ERROR_REPORTING='false',
        WANDB_MODE='offline',
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.setenv(name, '')
            patch.delenv(name)
        for name, value in offline.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        names = ('tensorboard', 'wandb', 'mlflow')
        add_loggers(cfg, [name for name in names if importlib.util.find_spec(name)])
        StrictRunner.from_cfg(cfg).train()
        yield folder


@pytest.fixture(scope='module')
def losses(run):
    """The losses by step that mmengine's own log has."""
    (log,) = run.glob('mine/*/vis_data/scalars.json')
    records = map(json.loads, log.read_text().splitlines())
    found = {record['step']: record['loss'] for record in records if 'loss' in record}
    assert sorted(found) == [1, 2, 3, 4]
    return found


def test_tensorboard_has_the_losses(run, losses):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = run.glob('mine/*/vis_data/events.out.*')
    events = EventAccumulator(str(file)).Reload()
    assert {event.step: event.value for event in events.Scalars('loss')} == pytest.approx(losses)
    assert events.Scalars('coco/bbox_mAP')


def wandb_records(path):
    """Reads a file of W&B: records in the format of the logs of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, content = path.read_bytes(), 7, b''
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack('<IHB', data[position : position + 7])
        content += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(content)
            content = b''


def test_wandb_has_losses_and_config_but_no_code(run, losses):
    pytest.importorskip('wandb')
    (file,) = run.glob('mine/wandb/offline-run-*/run-*.wandb')
    records = list(wandb_records(file))
    rows = [
        {
            item.key or '/'.join(item.nested_key): json.loads(item.value_json)
            for item in r.history.item
        }
        for r in records
        if r.WhichOneof('record_type') == 'history'
    ]
    assert {row['iter']: row['loss'] for row in rows if 'loss' in row} == pytest.approx(losses)
    assert any('coco/bbox_mAP' in row for row in rows)
    (start,) = [r.run for r in records if r.WhichOneof('record_type') == 'run']
    assert (start.project, start.display_name) == ('mmdet_dinov2', 'mine')
    keys = {
        item.key
        for r in records
        if r.WhichOneof('record_type') == 'config'
        for item in r.config.update
    }
    assert {'model', 'optim_wrapper'} <= keys
    assert not any(r.WhichOneof('record_type') == 'artifact' for r in records)


def test_mlflow_has_losses_and_config(run, losses, monkeypatch):
    pytest.importorskip('mlflow')
    from mlflow import MlflowClient

    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    client = MlflowClient((run / 'mine/mlruns').as_uri())
    experiment = client.get_experiment_by_name('mmdet_dinov2')
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == 'mine' and found.info.status == 'FINISHED'
    history = client.get_metric_history(found.info.run_id, 'loss')
    assert {metric.step: metric.value for metric in history} == pytest.approx(losses)
    assert 'coco/bbox_mAP' in found.data.metrics
    assert found.data.params['model.type'] == 'PaddingAwareDINO'
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ['config.py']
