"""Reading and joining of logs."""

import json

import numpy as np
import pytest

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.run_log import parse_step, read_run
from mmdet_dinov2.runs.saved_config import (
    find_config,
    plan_of,
    planned_drops,
    planned_end,
    read_saved_config,
)

from ..logs import power_law, write_part


def test_a_work_folder(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 500, drop=300)
    run = read_run(tmp_path)
    assert run.epoch_length == 100
    assert [record['iter'] for record in run.training] == list(range(50, 501, 50))
    steps, ap = run.ap_curve()
    assert steps.tolist() == [100, 200, 300, 400, 500]
    assert ap[:3] == pytest.approx(power_law(steps[:3]))
    assert run.lr_drops() == [300]
    assert run.hours(np.array([0, 250, 500])) == pytest.approx(np.array([0, 250, 500]) * 0.5 / 3600)
    # COCO's evaluation returns -1 where there is nothing to find.
    assert len(run.ap_curve('coco/bbox_mAP_s')[0]) == 0


def test_resumed_parts_are_joined(tmp_path):
    """Repeated steps count once, as the later part logged them."""
    write_part(tmp_path, '20250101_000000', 1, 420)
    write_part(tmp_path, '20250102_000000', 301, 600, offset=1.0)
    run = read_run(tmp_path)
    steps, losses = run.series('loss')
    assert steps.tolist() == list(range(50, 601, 50))
    assert (losses > 1)[steps > 300].all() and not (losses > 1)[steps <= 300].any()
    steps, ap = run.ap_curve()
    assert steps.tolist() == [100, 200, 300, 400, 500, 600]
    assert ap - power_law(steps) == pytest.approx([0, 0, 0, 1, 1, 1])


def test_a_part_that_resumed_within_an_epoch(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 230)
    write_part(tmp_path, '20250102_000000', 231, 500)
    run = read_run(tmp_path)
    assert run.epoch_length == 100
    assert run.ap_curve()[0].tolist() == [100, 200, 300, 400, 500]


def test_started_again_in_the_same_folder(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 500)
    write_part(tmp_path, '20250102_000000', 1, 200, offset=1.0)
    run = read_run(tmp_path)
    assert run.ap_curve()[0].tolist() == [100, 200]
    assert (run.series('loss')[1] > 1).all()


def test_steps_instead_of_epochs(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 500, by_epoch=False)
    run = read_run(tmp_path)
    assert run.epoch_length is None
    assert run.ap_curve()[0].tolist() == [100, 200, 300, 400, 500]


def test_one_epoch_only(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 100)
    assert read_run(tmp_path).ap_curve()[0].tolist() == [100]


def test_half_a_line_at_the_end_is_that_of_a_stopped_run(tmp_path):
    path = write_part(tmp_path, '20250101_000000', 1, 200)
    path.write_text(path.read_text() + '{"lr": 0.0')
    assert len(read_run(path).training) == 4
    path.write_text('{"lr": 0.0\n' + path.read_text())
    with pytest.raises(InputError, match=r'scalars.json, line 1 is not valid JSON'):
        read_run(path)


def test_csv(tmp_path):
    path = tmp_path / 'a.csv'
    path.write_text('\ufeffiter, AP ,lr\n100,0.2,1e-4\n200,0.3,1e-4\n300,,1e-4\n400,0.4,1e-5\n')
    run = read_run(path)
    steps, ap = run.ap_curve()
    assert steps.tolist() == [100, 200, 400]
    assert ap == pytest.approx([20, 30, 40])
    assert run.lr_drops() == [300]
    path.write_text('step,AP\n1,x\n')
    with pytest.raises(InputError, match='line 2 must have numbers only'):
        read_run(path)


def test_the_folder_may_be_the_current_one(tmp_path, monkeypatch):
    write_part(tmp_path, '20250101_000000', 1, 200)
    for folder in (tmp_path, tmp_path / '20250101_000000'):
        monkeypatch.chdir(folder)
        assert read_run('.').training[-1]['iter'] == 200


def test_records_of_memory_are_no_evaluations(tmp_path):
    log = tmp_path / 'a/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    rows = [dict(iter=50, epoch=1, loss=1.0), {'memory/main_mib': 9, 'step': 50}]
    log.write_text('\n'.join(map(json.dumps, rows)))
    run = read_run(tmp_path)
    assert len(run.training) == 1 and run.evaluations == []
    assert len(run.ap_curve()[0]) == 0


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none does not exist'):
        read_run(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match='does not hold the log of a run'):
        read_run(tmp_path)
    write_part(tmp_path, '20250101_000000', 1, 200)
    with pytest.raises(
        InputError, match="'segm_mAP' is not among the evaluated metrics .*bbox_mAP"
    ):
        read_run(tmp_path).ap_curve('segm_mAP')


@pytest.mark.parametrize(
    ('text', 'steps'), [('90000', 90000), ('12ep', 90000), ('2.5 epochs', 18750), ('1epoch', 7500)]
)
def test_steps_and_epochs(text, steps):
    assert parse_step(text, 7500) == steps


@pytest.mark.parametrize('text', ['', '0', '-5', '1.5', '12 weeks', 'ep'])
def test_neither_steps_nor_epochs(text):
    with pytest.raises(InputError, match='expected steps .* or epochs'):
        parse_step(text, 7500)


def test_saved_configs_are_read_as_data(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        "train_cfg = dict(max_epochs=12, val_interval=1)\nvalues = [1, -2.5, (3,), None, inf]\n"
        "keys = dict({'a-b': 1, 'c': dict(d=True)})\n"
        'param_scheduler = [dict(type="LinearLR", by_epoch=False, begin=0, end=50),\n'
        '  dict(type="MultiStepLR", milestones=[11, 40], by_epoch=True, begin=0, end=12)]\n'
    )  # fmt: skip
    cfg = read_saved_config(path)
    assert cfg['values'] == [1, -2.5, (3,), None, float('inf')]
    assert cfg['keys'] == {'a-b': 1, 'c': {'d': True}}
    assert planned_end(cfg, 100) == 1200 and planned_end(cfg, None) is None
    assert planned_drops(cfg, 100) == [1100]


@pytest.mark.parametrize('code', ['import os', 'x = open("marker", "w")', 'x = __import__("os")'])
def test_code_in_a_saved_config_never_runs(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.py').write_text(code)
    with pytest.raises(InputError, match='is not a resolved config'):
        read_saved_config(tmp_path / 'config.py')
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']


def test_the_config_of_the_last_part_is_found(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 100, config='train_cfg = dict(max_iters=5)')
    write_part(tmp_path, '20250102_000000', 101, 200, config='train_cfg = dict(max_iters=7)')
    assert find_config(tmp_path).parts[-3] == '20250102_000000'
    assert plan_of(tmp_path, None) == (7, [])
    assert plan_of(tmp_path / '20250101_000000/vis_data/scalars.json', None) == (5, [])


def test_records_as_mmengine_writes_them(tmp_path):
    """Evaluations are logged by epoch, in epochs of one step."""
    lines = [
        dict(lr=0.1, iter=1, epoch=1, step=1),
        {'coco/bbox_mAP': 0.1, 'step': 1},
        dict(lr=0.1, iter=2, epoch=2, step=2),
        {'coco/bbox_mAP': 0.2, 'step': 2},
    ]
    path = tmp_path / 'scalars.json'
    path.write_text('\n'.join(map(json.dumps, lines)))
    assert read_run(path).ap_curve()[0].tolist() == [1, 2]
