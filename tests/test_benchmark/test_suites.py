"""Every named comparison runs in tiny sizes and fills its tables with numbers."""

import json

import cv2
import pytest
import torch

from mmdet_dinov2.benchmark.isolated import CaseError
from mmdet_dinov2.benchmark.machine import describe_machine
from mmdet_dinov2.benchmark.picture import draw_report
from mmdet_dinov2.benchmark.settings import Settings
from mmdet_dinov2.benchmark.suites import SUITES
from mmdet_dinov2.benchmark.suites.gpu import PUBLISHED
from mmdet_dinov2.benchmark.tables import NOT_MEASURED, BenchmarkReport
from mmdet_dinov2.benchmark.timing import Spread
from mmdet_dinov2.models.dino import PaddingAwareDINO

pytest.importorskip('timm')


def run_here(function, time_limit, variables=None, **kwargs):
    """Calls a case in this process, with arguments and results as JSON."""
    try:
        return json.loads(json.dumps(function(**json.loads(json.dumps(kwargs)))))
    except Exception as error:
        raise CaseError(f'{type(error).__name__}: {error}') from error


SETTINGS = Settings(repeats=1, dry_run=True, run_case=run_here)


def run_suite(name, folder):
    report = BenchmarkReport(folder, name, 'test', describe_machine('cpu'), echo=lambda line: None)
    SUITES[name](report, SETTINGS)
    content = json.loads((folder / f'{name}.json').read_text())
    assert NOT_MEASURED not in report.as_markdown(), report.as_markdown()
    assert [table['title'] for table in content['tables']] == [t.title for t in report.tables]
    drawn = draw_report(report, folder / 'picture.png')
    assert drawn == (cv2.imread(str(folder / 'picture.png')) is not None)
    assert drawn or name == 'batch-mates'  # has only differences
    return report.tables


def test_equal_sizes(tmp_path):
    (table,) = run_suite('backbone', tmp_path)
    rows = {(row['pass'], row['case'], row['peer']) for row in table.rows}
    assert rows == {
        (step, case, peer)
        for step in ('forward', 'forward+backward')
        for case, peer in (('ours', 'timm'), ('ours', 'mmpretrain'), ('timm again', 'timm'))
    }
    for row in table.rows:
        assert row['ratio'].median == pytest.approx(row['case s'].median / row['peer s'].median)


def test_mixed_sizes(tmp_path):
    (table,) = run_suite('mixed-sizes', tmp_path)
    assert len(table.rows) == 2
    for row in table.rows:
        assert 0 < row['valid tokens'] < 1
        assert row['limit'] == f'<= {row["valid tokens"]:.3g}'
        assert row['features differ'] < 1e-4


def test_windows(tmp_path):
    (table,) = run_suite('windows', tmp_path)
    assert [row['part'] for row in table.rows] == ['block', 'backbone']


def test_families(tmp_path):
    backbones, detectors = run_suite('families', tmp_path)
    assert [row['pass'] for row in backbones.rows] == ['forward', 'forward+backward']
    for row in backbones.rows:
        assert row['ratio'].median == pytest.approx(row['DINOv3 s'].median / row['DINOv2 s'].median)
        # Both have two blocks; rotation adds operators to both.
        assert 0 < row['DINOv3 operators'] - row['DINOv2 operators'] < 100
    (row,) = detectors.rows
    assert isinstance(row['time ratio'], Spread)


def test_matching(tmp_path):
    (table,) = run_suite('matching', tmp_path)
    for row in table.rows:
        assert float(row['loss of ours']) == pytest.approx(float(row['loss of mmdet']), rel=1e-4)


def test_batch_mates(tmp_path):
    (table,) = run_suite('batch-mates', tmp_path)
    ours, theirs = table.rows
    assert max(float(ours['largest difference of boxes']), float(ours['of scores'])) < 1e-4
    # The figure for a detector that sees the padding.
    assert float(theirs['of scores']) > 1e-4


def test_training_step(tmp_path):
    comparison, parts = run_suite('training-step', tmp_path)
    (row,) = comparison.rows
    # In this process, both may use memory that was freed before.
    if row['ours MiB'] and row['mmdet MiB']:
        assert row['memory ratio'] == pytest.approx(row['ours MiB'] / row['mmdet MiB'])
    assert isinstance(row['time ratio'], Spread)
    assert [part['model'].split()[0] for part in parts.rows] == ['ours', 'mmdet']
    for part in parts.rows:
        assert part['backbone s'] > 0 and part['backward s'] > 0


def test_reproducible(tmp_path, monkeypatch):
    switched_on = []
    train_step = PaddingAwareDINO.train_step

    def spy(*args, **kwargs):
        switched_on.append(torch.are_deterministic_algorithms_enabled())
        return train_step(*args, **kwargs)

    monkeypatch.setattr(PaddingAwareDINO, 'train_step', spy)
    (table,) = run_suite('reproducible', tmp_path)
    assert isinstance(table.rows[0]['ratio'], Spread)
    # The warm-up, then a round in reverse order.
    assert switched_on == [False, True, True, False]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_gpu_suite(tmp_path):
    tables = run_suite('gpu', tmp_path)
    checks, against, ablation, large, utilisation = tables
    assert len(checks.rows) == 5
    assert len(against.rows) == len(large.rows) == len(utilisation.rows) == 1
    published = [(row['published s'], row['published MiB']) for row in ablation.rows]
    assert published == [(f'{seconds:.4f}', str(mib)) for seconds, mib in PUBLISHED.values()]
    for row in checks.rows:
        assert float(row['forward differs']) <= float(row['expected'].removeprefix('<= '))


def test_threads(tmp_path):
    (table,) = run_suite('threads', tmp_path)
    assert [(row['machine'], row['spins']) for row in table.rows] == [
        ('idle', 'GOMP_SPINCOUNT=1000'),
        ('idle', 'GOMP_SPINCOUNT=300000'),
        ('one core busy', 'GOMP_SPINCOUNT=1000'),
        ('one core busy', 'GOMP_SPINCOUNT=300000'),
    ]
    for row in table.rows:
        assert row['ratio'].median == pytest.approx(
            row['step s'].median / table.rows[1]['step s'].median
        )
