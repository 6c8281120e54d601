"""Ablations: plans, runs that are not repeated, intervals, tables."""

import dataclasses
import json
import math

import numpy as np
import pytest

from mmdet_dinov2.benchmark import ablation
from mmdet_dinov2.benchmark.ablation import MeanDifference, run_folder, run_plan
from mmdet_dinov2.benchmark.ablation_plan import read_plan
from mmdet_dinov2.benchmark.machine import describe_machine
from mmdet_dinov2.benchmark.picture import draw_report
from mmdet_dinov2.benchmark.tables import BenchmarkReport
from mmdet_dinov2.errors import InputError, MissingFileError

from ..tools import ROOT, run_command, write_config

PLANS = ROOT / 'tools/ablations'
PLAN = """
config = {config!r}
seeds = [0, 1]
options = {{'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1}}
changes = dict(
    mal={{'model.bbox_head.loss_cls': dict(_delete_=True, type='MALoss')}},
    slow={{'optim_wrapper.optimizer.lr': 1e-5}},
)
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / 'plan.py'
    path.write_text(PLAN.format(config='dino_dinov2_quickstart'))
    return path


def report_of(tmp_path):
    return BenchmarkReport(
        tmp_path, 'plan', 'command', describe_machine('cpu'), echo=lambda line: None
    )


SCORES = dict(base=0.5, mal=0.53, slow=0.4)


def pretend_to_train(calls, metric='coco/bbox_mAP', steps=40):
    """Returns what leaves the folder of a training instead of training."""

    def train_run(plan, change, seed, work_dir):
        calls.append((change, seed))
        folder = run_folder(work_dir, change, seed)
        log = folder / '2026/vis_data/scalars.json'
        log.parent.mkdir(parents=True, exist_ok=True)
        rows = [dict(iter=i, epoch=1, time=0.5) for i in (steps // 2, steps)]
        rows.append({'step': 1, metric: SCORES[change] + 0.1 * seed + 0.01 * (change == 'mal')})
        log.write_text('\n'.join(map(json.dumps, rows)))
        settings = ablation._settings(read_plan(plan), change, seed)
        (folder / 'ablation.json').write_text(json.dumps(settings))
        return {}

    def run(function, time_limit, **kwargs):
        assert function is ablation.train_run and time_limit is None
        return train_run(**kwargs)

    return run


def test_each_run_is_trained_once_and_the_table_compares_seed_by_seed(tmp_path, plan, monkeypatch):
    monkeypatch.setattr('mmdet_dinov2.benchmark.ablation_plan.Plan.check', lambda *args: None)
    calls, lines = [], []
    run = pretend_to_train(calls)
    run_plan(plan, report_of(tmp_path), tmp_path, tell=lines.append, run=run)
    assert calls == [(change, seed) for seed in (0, 1) for change in ('base', 'mal', 'slow')]
    assert lines[1].startswith('run 2 of 6: mal, seed 0')
    report = report_of(tmp_path)
    run_plan(plan, report, tmp_path, run=run)
    assert len(calls) == 6
    base, mal, slow = report.tables[0].rows
    assert base['mean'] == pytest.approx(0.55) and base['spread'] == '0.500..0.600'
    assert base['s per step'] == pytest.approx(0.5) and base['steps'] == '40'
    assert 'difference' not in base
    assert mal['difference'].mean == pytest.approx(0.04)
    assert mal['difference'].low == pytest.approx(0.04) == mal['difference'].high
    assert slow['difference'].mean == pytest.approx(-0.1)
    assert draw_report(report, tmp_path / 'plan.png') and (tmp_path / 'plan.png').stat().st_size
    written = json.loads((tmp_path / 'plan.json').read_text())['tables'][0]['rows']
    assert written[1]['difference']['mean'] == pytest.approx(0.04)
    # More seeds: only theirs are trained.
    plan.write_text(plan.read_text().replace('[0, 1]', '[0, 1, 5]'))
    run_plan(plan, report_of(tmp_path), tmp_path, tell=lines.append, run=run)
    assert calls[6:] == [('base', 5), ('mal', 5), ('slow', 5)]


def test_a_table_of_some_runs(tmp_path, plan):
    run = pretend_to_train([])
    for change, seed in (('base', 0), ('mal', 0), ('mal', 1)):
        run(ablation.train_run, None, plan=plan, change=change, seed=seed, work_dir=tmp_path)
    report = report_of(tmp_path)
    run_plan(plan, report, tmp_path, train_missing=False, run=None)
    base, mal = report.tables[0].rows
    assert base['seeds'] == 1 and mal['seeds'] == 2
    # Only seed 0 has a base.
    assert mal['difference'].count == 1 and str(mal['difference']) == '+0.040'
    assert mal['difference'].as_dict()['low'] is None
    assert 'NaN' not in (tmp_path / 'plan.json').read_text()


def test_a_change_may_be_compared_with_another_one(tmp_path, plan):
    plan.write_text(plan.read_text() + "references = dict(mal='slow')\n")
    run = pretend_to_train([])
    for change in ('base', 'mal', 'slow'):
        run(ablation.train_run, None, plan=plan, change=change, seed=0, work_dir=tmp_path)
    report = report_of(tmp_path)
    run_plan(plan, report, tmp_path, train_missing=False)
    _, mal, slow = report.tables[0].rows
    assert mal['difference'].mean == pytest.approx(0.14)
    assert slow['difference'].mean == pytest.approx(-0.1)
    assert 'mal is compared with slow' in report.tables[0].notes


def test_runs_that_do_not_compare_are_named(tmp_path, plan):
    run = pretend_to_train([])
    run(ablation.train_run, None, plan=plan, change='base', seed=0, work_dir=tmp_path)
    other = pretend_to_train([], steps=60)
    other(ablation.train_run, None, plan=plan, change='mal', seed=0, work_dir=tmp_path)
    report = report_of(tmp_path)
    run_plan(plan, report, tmp_path, train_missing=False)
    assert 'different numbers of steps' in report.tables[0].notes[-1]
    plan.write_text(plan.read_text().replace("'MALoss'", "'IABCELoss'"))
    with pytest.raises(InputError, match='mal/seed_0 was trained with settings that the plan'):
        run_plan(plan, report_of(tmp_path), tmp_path, train_missing=False)
    plan.write_text(plan.read_text().replace("'IABCELoss'", "'MALoss'") + "metric = 'coco/x'\n")
    with pytest.raises(InputError, match="no evaluation with the metric 'coco/x', only coco/bbox"):
        run_plan(plan, report_of(tmp_path), tmp_path, train_missing=False)


def test_the_interval_is_that_of_students_t():
    # Half a width of t(0.975, 2) = 4.30265 standard errors.
    values = [0.01, 0.04, 0.02]
    difference = MeanDifference.of(values)
    half = 4.30265 * np.std(values, ddof=1) / math.sqrt(3)
    assert difference.mean == pytest.approx(np.mean(values))
    assert difference.high - difference.mean == pytest.approx(half, rel=1e-5)
    assert (
        str(difference) == f'+0.023 ({np.mean(values) - half:+.3f}..{np.mean(values) + half:+.3f})'
    )


def test_runs_of_a_config_that_has_changed_are_not_compared(tmp_path):
    config, path = tmp_path / 'base.py', tmp_path / 'plan.py'
    config.write_text('model = dict(num_queries=20)\n')
    path.write_text(PLAN.format(config=str(config)))
    run = pretend_to_train([])
    run(ablation.train_run, None, plan=path, change='mal', seed=0, work_dir=tmp_path)
    config.write_text('# Of objects in an image.\nmodel = dict(num_queries=20)\n')
    run_plan(path, report_of(tmp_path), tmp_path, train_missing=False, run=None)
    config.write_text('model = dict(num_queries=30)\n')
    with pytest.raises(InputError, match='settings that the plan, or its config, does not have'):
        run_plan(path, report_of(tmp_path), tmp_path, train_missing=False, run=None)


def test_each_seed_may_have_settings_of_its_own(plan):
    text = plan.read_text().replace('options = {', "options = [{'a.b': 1}, {")
    text = text.replace("'train_cfg.val_interval': 1}", "'train_cfg.val_interval': 1}]")
    plan.write_text(text.replace('slow={', 'slow=[{}, {').replace('1e-5}', '1e-5}]'))
    found = read_plan(plan)
    assert found.options_of('base', 0) == {'a.b': 1, 'randomness.seed': 0}
    assert found.options_of('slow', 0) == {'a.b': 1, 'randomness.seed': 0}
    second = found.options_of('slow', 1)
    assert second.pop('optim_wrapper.optimizer.lr') == 1e-5
    assert second == found.options_of('base', 1) and second['train_cfg.max_epochs'] == 1


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("config = 'a'\nchanges = dict(a={})", r'seeds must be set, such as seeds = \[0, 1, 2\]'),
        ("config = 'a'\nchange = dict(a={})", "no key 'change', .*did you mean changes"),
        ("config = 'a'\nchanges = {'a/b': {}}\nseeds = [0]", 'a change has a name of letters'),
        ("config = 'a'\nchanges = dict(a=1)\nseeds = [0]", "found 'a': 1"),
        ("config = 'a'\nchanges = dict(a=[{}])\nseeds = [0, 1]", "2 seeds, but 'a' has 1"),
        ("config = 'a'\nchanges = dict(a={})\nseeds = [0, 0]", 'seeds must be different'),
        ("config = 'a'\nchanges = dict(base={'x': 1})\nseeds = [0]", "'base' has no changes"),
        (
            "config = 'a'\nchanges = dict(b={})\nseeds = [0]\nreferences = dict(b='c')",
            "references name changes, but found 'b': 'c'",
        ),
        (
            "config = 'a'\nchanges = dict(b={})\nseeds = [0]\nreferences = ['b']",
            r"references must be a dict, such as .*, but is \['b'\]",
        ),
        (
            "config = 'a'\nchanges = dict(b={})\nseeds = [0]\noptions = 5",
            'options must be a dict, such as .*, but is 5',
        ),
    ],
)
def test_wrong_plans_are_refused(tmp_path, text, message):
    path = tmp_path / 'plan.py'
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_plan(path)
    with pytest.raises(MissingFileError, match='does not exist'):
        read_plan(tmp_path / 'other.py')


def test_wrong_changes_are_found_before_anything_is_trained(tmp_path):
    path = tmp_path / 'plan.py'
    path.write_text(PLAN.format(config=str(write_config(tmp_path))).replace('MALoss', 'MALos'))
    with pytest.raises(InputError, match="change 'mal': .*MALos"):
        run_plan(path, report_of(tmp_path), tmp_path, run=None)


def test_settings_of_every_seed_are_checked(tmp_path):
    path = tmp_path / 'plan.py'
    text = PLAN.format(config=str(write_config(tmp_path)))
    path.write_text(
        text.replace("{'optim_wrapper.optimizer.lr': 1e-5}", "[{}, {'model.bogus': 1}]")
    )
    with pytest.raises(InputError, match="change 'slow': .*bogus"):
        run_plan(path, report_of(tmp_path), tmp_path, run=None)


def test_a_run_that_was_begun_with_other_settings_does_not_go_on(tmp_path, plan, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, 'train', interrupted)
    arguments = dict(plan=str(plan), change='mal', seed=0, work_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        ablation.train_run(**arguments)
    assert ablation.read_result(read_plan(plan), tmp_path, 'mal', 0) is None
    plan.write_text(plan.read_text().replace("'MALoss'", "'IABCELoss'"))
    with pytest.raises(InputError, match='mal/seed_0 was trained with settings that the plan'):
        run_plan(plan, report_of(tmp_path), tmp_path, run=None)
    monkeypatch.setattr(ablation, 'train', lambda *args, **kwargs: None)
    ablation.train_run(**arguments)
    (record,) = run_folder(tmp_path, 'mal', 0).glob('*.json')
    assert record.name == 'ablation.json'
    record.write_text(record.read_text()[:20])
    with pytest.raises(InputError, match='ablation.json is damaged .*delete the folder of the run'):
        run_plan(plan, report_of(tmp_path), tmp_path, run=None)


@pytest.mark.slow
def test_the_command_trains_and_goes_on(tmp_path, capfd):
    path = tmp_path / 'plan.py'
    text = PLAN.format(config=str(write_config(tmp_path))).replace('[0, 1]', '[3]')
    path.write_text(text[: text.index('    slow')] + ')\n')
    run_command('ablate', path, '--work-dir', tmp_path / 'runs')
    assert 'run 2 of 2: mal, seed 3' in capfd.readouterr().out
    # A run that has ended without its record is not trained again.
    record = tmp_path / 'runs/mal/seed_3/ablation.json'
    checkpoint = tmp_path / 'runs/mal/seed_3/epoch_1.pth'
    record.unlink()
    before = checkpoint.stat().st_mtime
    run_command('ablate', path, '--work-dir', tmp_path / 'runs')
    assert record.is_file() and checkpoint.stat().st_mtime == before
    out = capfd.readouterr().out
    assert 'run 1 of 1: mal, seed 3' in out and '| mal | 1 |' in out
    assert (tmp_path / 'runs/plan.png').is_file()


@pytest.mark.parametrize('path', sorted(PLANS.glob('*.py')), ids=lambda path: path.stem)
def test_the_plans_of_the_project(path):
    plan = read_plan(path)
    assert plan.seeds == (0, 1, 2) and len(plan.changes) > 1
    assert f'Command:    mmdet_dinov2 ablate tools/ablations/{path.name}\n' in path.read_text()


@pytest.mark.slow
def test_the_plan_of_the_project_builds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_plan(PLANS / 'quickstart.py')
    assert len(plan.changes) == 11 and plan.seeds == (0, 1, 2)
    small = {'sample_data.num_train': 4, 'sample_data.num_val': 2}
    dataclasses.replace(plan, options=small).check(tmp_path)


@pytest.mark.slow
def test_the_plans_with_unlabeled_photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_plan(PLANS / 'unlabeled.py')
    assert plan.references['unlabeled_40'] == 'averaged_40'
    small = {'sample_data.num_train': 48, 'sample_data.num_val': 2}
    changes = {name: plan.changes[name] for name in ('base', 'averaged_10', 'unlabeled_10')}
    dataclasses.replace(plan, changes=changes, options=small).check(tmp_path)
    plan = read_plan(PLANS / 'unlabeled_tries.py')
    changes = {name: plan.changes[name] for name in ('base', 'twice_as_many')}
    dataclasses.replace(plan, changes=changes, options={**plan.options, **small}).check(tmp_path)
    plan = read_plan(PLANS / 'unlabeled_bccd.py')
    assert plan.references == dict(unlabeled='averaged') and plan.data == 'data/bccd'
