"""Every named comparison runs in tiny sizes and fills its tables with numbers."""

import importlib
import json
import sys
from dataclasses import replace

import cv2
import pytest
import torch

from mmdet_dinov2.benchmark.isolated import CaseError
from mmdet_dinov2.benchmark.machine import describe_machine
from mmdet_dinov2.benchmark.parts import PARTS
from mmdet_dinov2.benchmark.picture import draw_report
from mmdet_dinov2.benchmark.settings import Settings
from mmdet_dinov2.benchmark.suites import SUITES, real_time
from mmdet_dinov2.benchmark.suites.gpu import PUBLISHED
from mmdet_dinov2.benchmark.tables import NOT_MEASURED, BenchmarkReport
from mmdet_dinov2.benchmark.timing import Spread
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.models.dino import PaddingAwareDINO

pytest.importorskip('timm')


def run_here(function, time_limit, variables=None, **kwargs):
    """Calls a case in this process, with arguments and results as JSON."""
    try:
        return json.loads(json.dumps(function(**json.loads(json.dumps(kwargs)))))
    except Exception as error:
        raise CaseError(f'{type(error).__name__}: {error}') from error


class WorkerHere:
    """Serves calls in this process, with arguments and results as JSON."""

    def __init__(self, program, time_limit, python=None, variables=None, **arguments):
        module = importlib.import_module(program[-1])
        self.calls = module.build(**json.loads(json.dumps(arguments)))

    def call(self, name, **arguments):
        return json.loads(json.dumps(self.calls[name](**arguments)))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


SETTINGS = Settings(repeats=1, dry_run=True, run_case=run_here, start_worker=WorkerHere)


def run_suite(name, folder):
    report = BenchmarkReport(folder, name, 'test', describe_machine('cpu'), echo=lambda line: None)
    SUITES[name](report, SETTINGS)
    content = json.loads((folder / f'{name}.json').read_text())
    assert NOT_MEASURED not in report.as_markdown(), report.as_markdown()
    assert [table['title'] for table in content['tables']] == [t.title for t in report.tables]
    drawn = draw_report(report, folder / 'picture.png')
    assert drawn == (cv2.imread(str(folder / 'picture.png')) is not None)
    assert drawn or name in ('batch-mates', 'kernels')  # have no times
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


@pytest.mark.slow
def test_selection(tmp_path):
    (table,) = run_suite('selection', tmp_path)
    assert [row['change'] for row in table.rows] == ['base', 'diverse', 'diverse_unsure']
    assert {row['steps'] for row in table.rows} == {'2'}
    chosen = (tmp_path / 'selection/diverse/chosen.txt').read_text().splitlines()
    labeled = json.loads((tmp_path / 'selection/labeled/annotations/train.json').read_text())
    names = {image['file_name'] for image in labeled['images']}
    assert len(chosen) == 6 and len(names) == 4
    assert not names & {path.rsplit('/', 1)[1] for path in chosen}


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
    for row in table.rows:
        assert 0 < row['operations'] < 1
        assert row['of the operations'] == pytest.approx(row['ratio'].median / row['operations'])


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


@pytest.mark.slow
def test_kernels(tmp_path):
    operators, waits, frequent = run_suite('kernels', tmp_path)
    counted = {(r['model'], r['precision'], r['compiled']): r for r in operators.rows}
    assert list(counted) == [
        ('ours', 'bf16', ''),
        ('ours', 'bf16', 'yes'),
        ('mmdet', 'bf16', ''),
    ]
    plain, compiled, theirs = (row['step'] for row in operators.rows)
    assert 0 < compiled < plain < theirs
    for row in operators.rows:
        assert all(row[part] > 0 for part in PARTS)
        outside = row['data'] + row['optimizer']
        assert row['step'] == sum(row[part] for part in (*PARTS, 'other')) - outside
    ours, theirs = waits.rows
    assert ours['step'] == 1 < theirs['step']
    assert 'mul' in frequent.rows[0]['operators']


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
    tests, checks, trained, against, ablation, large, utilisation, *others = tables
    assert 'deselected' in tests.rows[0]['result'] or 'skipped' in tests.rows[0]['result']
    assert [row['precision'] for row in trained.rows] == ['bf16', 'fp32']
    assert all(0 <= row['bbox AP'] <= 1 for row in trained.rows)
    exhausted, deformable, gaps = others
    assert exhausted.rows[0]['parts'] == 2 and float(exhausted.rows[0]['losses differ']) < 0.02
    assert [row['pass'] for row in deformable.rows] == ['forward', 'backward'] * 2
    assert all(row['times the bound'] > 1 for row in deformable.rows)
    longest = [row['gap ms'] for row in gaps.rows]
    assert len(longest) == 3 and longest == sorted(longest, reverse=True)
    assert len(checks.rows) == 5
    assert len(against.rows) == len(large.rows) == len(utilisation.rows) == 1
    published = [(row['published s'], row['published MiB']) for row in ablation.rows]
    assert published == [(f'{seconds:.4f}', str(mib)) for seconds, mib in PUBLISHED.values()]
    for row in checks.rows:
        assert float(row['forward differs']) <= float(row['expected'].removeprefix('<= '))


@pytest.fixture
def kept_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class WithoutExport(WorkerHere):
    """Serves calls but those of an exported file, which takes long to trace."""

    def call(self, name, **arguments):
        if name == 'forward_exported':
            raise CaseError('not in this test')
        return super().call(name, **arguments)


@pytest.mark.slow
def test_real_time_of_exported_files(tmp_path, kept_threads):
    pytest.importorskip('onnxruntime')
    sizes, _ = run_suite('real-time', tmp_path)
    for row in sizes.rows:
        assert isinstance(row['exported s'], Spread) and row['exported / eager'].median > 0


def test_real_time(tmp_path, kept_threads):
    report = BenchmarkReport(
        tmp_path, 'rt', 'test', describe_machine('cpu'), echo=lambda line: None
    )
    SUITES['real-time'](report, replace(SETTINGS, start_worker=WithoutExport))
    sizes, video = report.tables
    square, photos = sizes.rows
    assert (square['images'], photos['images']) == ('96x96', '72x96')
    assert square['parameters M'] == photos['parameters M'] > 0
    assert photos['GFLOP'] < square['GFLOP']
    for row in sizes.rows:
        assert isinstance(row['forward, 1 thread s'], Spread)
        assert 'ratio, 1 thread' not in row  # there is no peer in the dry run
        assert row['exported s'] == f'{NOT_MEASURED}: not in this test'
    assert isinstance(square['training step s'], Spread) and square['peak MiB'] is not None
    (row,) = video.rows
    assert row['frames'] == 3 and row['speed ratio'].median > 0


class Served(WorkerHere):
    """Stands for the processes of ours and of RF-DETR, with figures of its own."""

    def __init__(self, program, *args, **kwargs):
        self.is_ours = program[0] == '-m'
        if not self.is_ours:
            assert program[0].endswith('peer/rf_detr.py') and kwargs['variant'] == 'Nano'
        described = dict(parameters=30e6, flops=40e9)
        if not self.is_ours:
            described['versions'] = dict(rfdetr='1.11.2')
        self.calls = dict(
            train=lambda **call: sum(range(20_000)) if self.is_ours else None,
            forward=lambda **call: sum(range(20_000)) if self.is_ours else None,
            forward_exported=lambda **call: sum(range(2_000)) if self.is_ours else None,
            memory=lambda: 1e3 if self.is_ours else 2e3,
            describe=lambda **call: described,
        )


def compare_real_time(folder, start_worker):
    report = BenchmarkReport(folder, 'rt', 'test', describe_machine('cpu'), echo=lambda line: None)
    settings = Settings(repeats=1, dry_run=True, start_worker=start_worker)
    variant = real_time.Variant('Nano', 96, 2)
    real_time._compare(report, settings, variant, dict(python='python'), '')
    draw_report(report, folder / 'picture.png')
    return report.tables[0]


def test_real_time_beside_the_peer(tmp_path):
    table = compare_real_time(tmp_path, Served)
    square, photos, peer = table.rows
    assert peer['model'] == 'RF-DETR-Nano' and peer['parameters M'] == 30
    assert table.notes[-1] == 'rfdetr 1.11.2'
    for column in ('ratio, 1 thread', 'ratio, all threads'):
        assert square[column].median > 1 and photos[column].median > 1
    assert square['step ratio'].median > 1 and 'step ratio' not in photos
    assert square['exported ratio'].median > 1 > square['exported / eager'].median
    assert 'exported ratio' not in peer and isinstance(peer['exported / eager'], Spread)
    assert (square['peak MiB'], peer['peak MiB'], square['memory ratio']) == (1e3, 2e3, 0.5)


def test_a_peer_that_fails_is_one_cell(tmp_path):
    class Failing(Served):
        def call(self, name, **arguments):
            if not self.is_ours:
                raise CaseError('ImportError: no rfdetr')
            return super().call(name, **arguments)

    table = compare_real_time(tmp_path, Failing)
    square, photos, peer = table.rows
    assert peer['parameters M'] == f'{NOT_MEASURED}: ImportError: no rfdetr'
    assert isinstance(square['forward, 1 thread s'], Spread) and 'ratio, 1 thread' not in square


def test_where_the_peer_is(tmp_path, monkeypatch):
    assert 'RF-DETR is absent: put it into an environment' in real_time._find_peer(None)[1]
    with pytest.raises(InputError, match='--rfdetr .* must be a virtual environment'):
        real_time._find_peer(str(tmp_path))
    (tmp_path / 'rfdetr').mkdir()
    assert real_time._find_peer(str(tmp_path))[0] == dict(variables=dict(PYTHONPATH=str(tmp_path)))
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/python').symlink_to(sys.executable)
    assert real_time._find_peer(str(tmp_path))[0] == dict(python=str(tmp_path / 'bin/python'))


@pytest.mark.slow
def test_redo(tmp_path):
    (table,) = run_suite('redo', tmp_path)
    assert [row['case'] for row in table.rows] == ['one process', 'two processes']
    for row in table.rows:
        assert isinstance(row['ratio'], Spread)


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


def test_masks(tmp_path):
    (table,) = run_suite('masks', tmp_path)
    assert [row['limit'] for row in table.rows] == ['<= 1.25', '<= 1.35', '<= 1.2']
    assert isinstance(table.rows[0]['ratio'], Spread) and isinstance(table.rows[2]['ratio'], Spread)


def test_tiles(tmp_path):
    pytest.importorskip('sahi')
    pytest.importorskip('tifffile')
    methods, memory = run_suite('tiles', tmp_path)
    ours, sahi = methods.rows
    assert (ours['method'], sahi['method']) == ('ours', 'sahi')
    assert ours['time ratio'].median == pytest.approx(
        ours['s per image'].median / sahi['s per image'].median
    )
    for row in methods.rows:
        assert 0 <= row['AP'] <= 1 and 0 <= row['repeated'] <= 1 and isinstance(row['MiB'], float)
    assert [row['file'] for row in memory.rows] == ['JPEG', 'TIFF in tiles']
    assert all(isinstance(row['400 MiB'], float) for row in memory.rows)


def test_the_suite_of_tiles_without_sahi(tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match='needs the package sahi: pip install sahi'):
        run_suite('tiles', tmp_path)
