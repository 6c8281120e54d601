"""The forecast in the log of a training."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from mmdet_dinov2.engine.hooks import ForecastHook

from ..logs import power_law, write_part
from ..tools import run_tool, write_config


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def runner(tmp_path):
    logger = logging.Logger('test')
    handler = Lines()
    logger.addHandler(handler)
    return SimpleNamespace(
        work_dir=str(tmp_path), logger=logger, lines=handler.lines, iter=600, max_iters=1000,
        train_dataloader=range(100), cfg=Config(dict()),
    )  # fmt: skip


def test_final_ap_is_predicted(runner, tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 600)
    ForecastHook().after_val_epoch(runner)
    ((level, line),) = runner.lines
    assert level == 'INFO'
    assert f'Forecast of AP after step 1000: {power_law(1000):.1f}, 95 % interval' in line


def test_planned_drop_is_added(runner, tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 600)
    runner.cfg = Config(dict(param_scheduler=[dict(type='MultiStepLR', milestones=[9])]))
    ForecastHook().after_val_epoch(runner)
    assert 'learning-rate drop as in published runs' in runner.lines[0][1]
    assert f': {power_law(1000):.1f},' not in runner.lines[0][1]


def test_silent_with_too_few_points_and_at_the_end(runner, tmp_path):
    ForecastHook().after_val_epoch(runner)  # no log at all
    write_part(tmp_path, '20250101_000000', 1, 400)
    ForecastHook().after_val_epoch(runner)
    write_part(tmp_path, '20250102_000000', 401, 1000)
    runner.iter = 1000
    ForecastHook().after_val_epoch(runner)
    assert runner.lines == []


def test_no_error_reaches_the_run(runner, tmp_path):
    path = write_part(tmp_path, '20250101_000000', 1, 600)
    path.write_text('[broken\n' + path.read_text())
    ForecastHook().after_val_epoch(runner)
    ((level, line),) = runner.lines
    assert level == 'WARNING' and 'no forecast of AP: InputError' in line


class RisingMetric(BaseMetric):
    """Reports an AP that follows a power law, whatever the model predicts."""

    evaluations = 0

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        self.evaluations += 1
        return {'coco/bbox_mAP': 0.5 - 0.3 * self.evaluations**-0.6}


def test_a_real_run_logs_it(tmp_path):
    METRICS.register_module(module=RisingMetric, force=True)
    config = write_config(
        tmp_path,
        "train_cfg = dict(type='EpochTrainLoop', max_epochs=7, val_interval=1)\n"
        "param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[6])]\n"
        "val_evaluator = dict(_delete_=True, type='RisingMetric')\n",
    )
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    (log,) = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text()
    # After 5 and 6 of 7 evaluations.
    assert text.count('Forecast of AP after step') == 2
    assert 'no forecast of AP' not in text
