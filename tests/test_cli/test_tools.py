"""The tools from start to end, and their messages about bad input."""

import importlib.util
import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from mmengine.config import Config

from ..tools import ROOT, failure_of, run_script, run_tool, write_config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run: its folder, config and work folder."""
    folder = tmp_path_factory.mktemp('run')
    config = write_config(folder)
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder, config, folder / 'work'


def scalars(work_dir):
    """Returns all logged records of a work folder, in the order of the runs."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def test_training_leaves_checkpoints_and_metrics(trained):
    _, _, work = trained
    assert (work / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    records = scalars(work)
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) == 8 and all(loss > 0 for loss in losses)
    assert any('coco/bbox_mAP' in record for record in records)


def test_test_prints_the_coco_table_and_draws(trained, capfd):
    folder, config, work = trained
    out = folder / 'predictions.pkl'
    run_tool(
        'test', config, work / 'epoch_2.pth',
        '--work-dir', folder / 'test', '--show-dir', 'drawn', '--out', out,
    )  # fmt: skip
    printed = capfd.readouterr()
    text = printed.out + printed.err
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in text
    assert '| star' in text  # a row of the table of classes
    pictures = list((folder / 'test').glob('*/drawn/*'))
    assert len(pictures) == 4
    assert len(pickle.loads(out.read_bytes())) == 4


def test_a_run_can_be_resumed(trained, tmp_path):
    _, config, work = trained
    copy = tmp_path / 'work'
    shutil.copytree(work, copy)
    (copy / 'last_checkpoint').write_text(str(copy / 'epoch_1.pth'))
    before = len(scalars(copy))
    run_tool('train', config, '--work-dir', copy, '--resume')
    resumed = [record for record in scalars(copy)[before:] if 'loss' in record]
    assert [record['step'] for record in resumed] == [5, 6, 7, 8]


def test_options_of_train(tmp_path):
    config = write_config(tmp_path)
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--amp', '--auto-scale-lr',
        '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=5',
    )  # fmt: skip
    cfg = Config.fromfile(tmp_path / 'work' / 'tiny.py')
    assert cfg.optim_wrapper.type == 'Bf16OptimWrapper'
    # A batch of 2 instead of the 8 that the rate was chosen for.
    assert scalars(tmp_path / 'work')[0]['lr'] == pytest.approx(8e-4 * 2 / 8)


def test_world_size_is_rescaled_and_the_table_printed(tmp_path, capfd):
    extra = 'reference_world_size = 4\nauto_scale_lr = dict(base_batch_size=8)\n'
    config = write_config(tmp_path, extra)
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--auto-scale-world-size',
        '--cfg-options', 'train_cfg.max_epochs=0',
    )  # fmt: skip
    printed = capfd.readouterr().out
    rows = {tuple(line.replace('|', ' ').split()) for line in printed.splitlines()}
    assert ('optim_wrapper.optimizer.lr', '0.0008', '0.0004') in rows  # AdamW: the square root
    assert ('images', 'per', 'step', '8', '2') in rows
    cfg = Config.fromfile(tmp_path / 'work' / 'tiny.py')
    assert cfg.reference_world_size == 1 and cfg.auto_scale_lr.base_batch_size == 2


@pytest.mark.parametrize(
    ('extra', 'arguments', 'message'),
    [
        ('', ['--lr-rule', 'sqrt'], '--lr-rule works with --auto-scale-world-size only'),
        ('reference_world_size = None', ['--auto-scale-world-size'], 'needs reference_world_size'),
        ('reference_world_size = 0', ['--auto-scale-world-size'], 'reference_world_size must be'),
        ('auto_scale_lr = dict(base_batch_size=7)', ['--keep-batch-size'], 'are 6 and 8'),
        ('optim_wrapper = dict(accumulative_counts=0)', [], 'accumulative_counts must be'),
        (
            "model_wrapper_cfg = dict(type='FullyShardedModel')\n"
            "custom_hooks = [dict(type='EMAHook')]",
            [],
            'do not work with FullyShardedModel',
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path, capfd, extra, arguments, message):
    config = write_config(tmp_path, extra + '\n')
    assert message in failure_of(capfd, 'train', config, '--work-dir', tmp_path / 'w', *arguments)
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('installed', [True, False])
def test_tensorboard_is_used_where_installed(tmp_path, capfd, monkeypatch, installed):
    find_spec = importlib.util.find_spec
    instead = dict(tensorboard='json' if installed else 'no_module')
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *args: find_spec(instead.get(name, name), *args)
    )
    run_tool('train', write_config(tmp_path), '--work-dir', tmp_path / 'work')
    assert bool(list((tmp_path / 'work').glob('*/vis_data/events.out.*'))) == installed
    assert ('TensorBoard is not installed' in capfd.readouterr().out) == (not installed)


def test_learning_rates_are_drawn(tmp_path, capfd):
    config = write_config(tmp_path)
    run_tool('print_lr', config, '--out', tmp_path / 'new' / 'lr.png')
    printed = capfd.readouterr().out
    assert '0.0008' in printed and 'drawn: ' in printed
    assert (tmp_path / 'new' / 'lr.png').stat().st_size > 1000
    assert 'at least 1' in failure_of(capfd, 'print_lr', config, '--epoch-length', '0')


def test_a_batch_without_boxes_trains(tmp_path):
    config = write_config(tmp_path)
    run_tool(
        'train', config, '--work-dir', tmp_path / 'a', '--cfg-options', 'train_cfg.max_epochs=0'
    )
    annotations = tmp_path / 'shapes/annotations/train.json'
    content = json.loads(annotations.read_text())
    # One box remains, so that the dataset is accepted; batches hold 2 of the 8 images.
    content['annotations'] = content['annotations'][:1]
    annotations.write_text(json.dumps(content))
    run_tool(
        'train', config, '--work-dir', tmp_path / 'b',
        '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=5',
    )  # fmt: skip
    losses = [record['loss'] for record in scalars(tmp_path / 'b') if 'loss' in record]
    assert len(losses) == 4 and all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.slow
def test_runs_from_any_folder_as_a_program(trained, tmp_path):
    _, config, work = trained
    result = run_script(
        sys.executable, ROOT / 'tools/test.py', config, work / 'epoch_2.pth', cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'bbox_mAP' in result.stdout + result.stderr
    assert (tmp_path / 'work_dirs/tiny').is_dir()


def test_bad_input_ends_a_program_with_one_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    error = failure_of(capfd, 'train', 'nothing.py')
    assert error.startswith('error: config nothing.py does not exist, neither as a file nor')
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def untouched(trained):
    """Checks that a failure does not change the files of a finished run."""
    _, _, work = trained
    before = {path: path.stat().st_mtime_ns for path in work.rglob('*')}
    yield
    assert {path: path.stat().st_mtime_ns for path in work.rglob('*')} == before


BAD_OPTIONS = {
    'missing annotation file': (
        ('train_dataloader.dataset.ann_file=annotations/none.json',),
        ('annotations/none.json', 'ann_file'),
    ),
    'class that the annotations lack': (
        ('train_dataloader.dataset.metainfo.classes=[circle,hexagon]',),
        ('hexagon', 'train.json', 'circle'),
    ),
    'number of classes': (('model.bbox_head.num_classes=7',), ('7', '5', 'num_classes')),
    'unknown backbone key': (
        ('model.backbone.window_sise=3',),
        ('window_sise', 'does not exist on DINOv2', 'window_size? it takes arch', 'img_size'),
    ),
    'unknown neck key': (
        ('model.neck.channels=3',),
        ('channels', 'SimpleFeaturePyramid', 'out_channels'),
    ),
    'unknown encoder key': (
        ('model.encoder.num_layer=3',),
        ('num_layer', 'PaddingAwareEncoder', 'did you mean num_layers'),
    ),
    'unknown key of a decoder layer': (
        ('model.decoder.layer_cfg.norm_cfgs=3',),
        ('norm_cfgs', 'DecoderLayer', 'did you mean norm_cfg'),
    ),
    'windows without global blocks': (
        ('model.backbone.window_size=4',),
        ('window_size=4', 'global_attn_indexes'),
    ),
    'misspelled setting': (
        ('optim_wraper.optimizer.lr=0.1',),
        ('optim_wraper.optimizer.lr', 'did you mean optim_wrapper'),
    ),
    'unknown dataloader key': (
        ('train_dataloader.bach_size=2',),
        ('bach_size', 'train_dataloader', 'did you mean batch_size'),
    ),
    'unknown detector': (('model.type=DINO9',), ('DINO9', 'registry')),
}


@pytest.mark.usefixtures('untouched')
@pytest.mark.parametrize('case', BAD_OPTIONS, ids=lambda case: case.replace(' ', '_'))
def test_bad_config_is_one_sentence(trained, capfd, case):
    _, config, work = trained
    options, facts = BAD_OPTIONS[case]
    error = failure_of(capfd, 'train', config, '--work-dir', work, '--cfg-options', *options)
    for fact in facts:
        assert fact in error, error


def test_missing_weights_are_one_sentence(trained, tmp_path, capfd):
    folder, _, _ = trained
    init_cfg = (
        "model['backbone']['init_cfg'] = dict(_delete_=True, type='Pretrained', checkpoint='{}')\n"
    )
    for checkpoint, expected in (
        ('http://localhost:9/dinov2.pth', 'cannot be reached'),
        (str(tmp_path / 'dinov2.pth'), 'does not exist'),
    ):
        config = write_config(folder, init_cfg.format(checkpoint), 'weights.py')
        error = failure_of(capfd, 'train', config, '--work-dir', tmp_path / 'work')
        assert expected in error and checkpoint in error


@pytest.mark.usefixtures('untouched')
def test_published_sizes_are_named(trained, capfd):
    folder, _, work = trained
    config = write_config(folder, "model['backbone']['arch'] = 'medium'\n", 'medium.py')
    error = failure_of(capfd, 'train', config, '--work-dir', work)
    assert "arch='medium'" in error and "'base'" in error


@pytest.mark.usefixtures('untouched')
def test_missing_image_is_one_sentence(trained, tmp_path, capfd):
    folder, _, work = trained
    shutil.copytree(folder / 'shapes', tmp_path / 'shapes')
    picture = sorted((tmp_path / 'shapes/train').iterdir())[0]
    picture.unlink()
    error = failure_of(capfd, 'train', write_config(tmp_path), '--work-dir', work)
    assert picture.name in error


@pytest.mark.usefixtures('untouched')
def test_missing_checkpoint_is_one_sentence(trained, capfd):
    _, config, work = trained
    error = failure_of(capfd, 'test', config, 'none.pth', '--work-dir', work)
    assert 'none.pth does not exist' in error
    error = failure_of(capfd, 'train', config, '--work-dir', work, '--resume', 'none.pth')
    assert 'none.pth does not exist' in error


def test_checkpoint_of_a_different_model_is_one_sentence(trained, tmp_path, capfd):
    folder, _, work = trained
    other = write_config(
        tmp_path, 'model["neck"]["out_channels"] = 16\nmodel["num_queries"] = 30\n',
        data=folder / 'shapes',
    )  # fmt: skip
    error = failure_of(capfd, 'test', other, work / 'epoch_2.pth', '--work-dir', tmp_path / 'x')
    assert 'epoch_2.pth is the checkpoint of a different model' in error
    assert 'query_embedding.weight (20, 16) instead of (30, 16)' in error


def test_out_must_be_a_pickle_file(trained, capfd):
    _, config, work = trained
    error = failure_of(capfd, 'test', config, work / 'epoch_2.pth', '--out', 'a.json')
    assert '--out a.json must end in .pkl' in error


def test_scaling_needs_a_base_batch_size(trained, capfd):
    folder, _, work = trained
    config = write_config(
        folder, 'auto_scale_lr = dict(_delete_=True, enable=False)\n', 'no_base.py'
    )
    error = failure_of(capfd, 'train', config, '--work-dir', work, '--auto-scale-lr')
    assert 'base_batch_size' in error


def test_traceback_on_demand(trained, monkeypatch):
    _, config, work = trained
    monkeypatch.setenv('MMDET_DINOV2_TRACEBACK', '1')
    with pytest.raises(ValueError, match='window_size=4'):
        run_tool(
            'train', config, '--work-dir', work, '--cfg-options', 'model.backbone.window_size=4'
        )


@pytest.mark.slow
def test_also_runs_with_the_tools_and_the_inferencer_of_mmdet(trained, tmp_path):
    """A config of this project needs nothing but its custom import."""
    import mmdet

    folder, config, work = trained
    tool = os.path.join(os.path.dirname(mmdet.__file__), '.mim/tools/test.py')
    if not os.path.exists(tool):
        pytest.skip('mmdet was installed without its tools')
    result = run_script(
        sys.executable, tool, config, work / 'epoch_2.pth', '--work-dir', tmp_path, cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'coco/bbox_mAP' in result.stdout + result.stderr

    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(str(config), str(work / 'epoch_2.pth'), device='cpu')
    picture = sorted((folder / 'shapes/val').iterdir())[0]
    result = inferencer(str(picture), no_save_vis=True, print_result=False)
    assert len(result['predictions'][0]['scores']) == 100


def test_fine_tuning_from_a_checkpoint_reports_what_it_took(trained, tmp_path):
    folder, _, work = trained
    config = write_config(tmp_path, data=folder / 'shapes')
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--cfg-options',
        f'load_from={work / "epoch_2.pth"}', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=5',
    )  # fmt: skip
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert (
        'Started from' in log.read_text()
        and ', 0 adapted, 0 left out, 0 missing' in log.read_text()
    )


def test_other_classes_than_those_of_the_checkpoint_are_refused(trained, tmp_path, capfd):
    folder, _, work = trained
    checkpoint = torch.load(work / 'epoch_2.pth', weights_only=False)
    checkpoint['meta']['dataset_meta']['classes'] = (
        'circle',
        'square',
        'triangle',
        'star',
        'cross',
    )
    torch.save(checkpoint, tmp_path / 'other.pth')
    config = write_config(tmp_path, data=folder / 'shapes')
    error = failure_of(capfd, 'test', config, tmp_path / 'other.pth', '--work-dir', tmp_path / 'x')
    assert (
        "only in the checkpoint: ['square']" in error and "metainfo=dict(classes=('circle'" in error
    )


@pytest.mark.parametrize('way', ['test', 'resume', 'load_from', 'init_cfg', 'convert'])
def test_code_in_a_checkpoint_never_runs(trained, tmp_path, capfd, way):
    folder, _, work = trained
    marker, path = tmp_path / 'marker', tmp_path / 'bad.pth'

    class Bad:
        def __reduce__(self):
            return open, (str(marker), 'w')

    torch.save(dict(torch.load(work / 'epoch_2.pth', weights_only=False), extra=Bad()), path)
    init_cfg = f"dict(_delete_=True, type='Pretrained', checkpoint='{path}')"
    extra = f"model['backbone']['init_cfg'] = {init_cfg}\n" if way == 'init_cfg' else ''
    config = write_config(tmp_path, extra, data=folder / 'shapes')
    to_work = ('--work-dir', tmp_path / 'work')
    arguments = {
        'test': ('test', config, path, *to_work),
        'resume': ('train', config, *to_work, '--resume', path),
        'load_from': ('train', config, *to_work, '--cfg-options', f'load_from={path}'),
        'init_cfg': ('train', config, *to_work),
        'convert': ('convert_weights', path, tmp_path / 'out.pth'),
    }[way]  # fmt: skip
    error = failure_of(capfd, *arguments)
    assert 'bad.pth wants to run code' in error and '--trust-checkpoint' in error
    assert not marker.exists()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_are_converted_whole_or_not_at_all(trained, tmp_path, capfd, suffix):
    from mmdet_dinov2.checkpoint import read_checkpoint

    _, _, work = trained
    out = tmp_path / f'out{suffix}'
    run_tool('convert_weights', work / 'epoch_2.pth', out)
    state = torch.load(work / 'epoch_2.pth', weights_only=False)['state_dict']
    converted = read_checkpoint(out)
    assert len(converted) == sum(name.startswith('backbone.') for name in state)
    assert all(torch.equal(t, state[f'backbone.{name}']) for name, t in converted.items())
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    capfd.readouterr()
    assert 'exists; remove it' in failure_of(capfd, 'convert_weights', work / 'epoch_2.pth', out)
    wrong = failure_of(capfd, 'convert_weights', work / 'epoch_2.pth', tmp_path / 'out.bin')
    assert 'must end in .pth or .safetensors' in wrong
