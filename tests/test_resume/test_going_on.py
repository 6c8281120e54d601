"""Resuming from what is left of a run, and with settings that have changed."""

import resource
import shutil
import zipfile

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmdet_dinov2.checkpoint import read_checkpoint
from mmdet_dinov2.engine.batch import EffectiveBatch
from mmdet_dinov2.engine.resume.changes import check_optimizer, describe_changes, training_settings
from mmdet_dinov2.engine.resume.choose import choose_checkpoint, has_checkpoints
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..test_engine.test_loops import scalars_of
from ..tools import failure_of, run_tool, write_config
from .test_choose import assert_same, losses_of, states_of

# 2 steps an epoch.
SHORT = """
train_dataloader['batch_size'] = 4
train_cfg = dict(max_epochs={epochs}, val_interval=9)
log_processor = dict(window_size=1)
custom_imports = dict(imports=['mmdet_dinov2', 'tests.faults'])
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Returns a folder with a run of 3 epochs in ``work``; its last checkpoint is epoch_3.pth."""
    folder = tmp_path_factory.mktemp('run')
    config = write_config(folder, SHORT.format(epochs=3))
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder


@pytest.fixture
def work(run, tmp_path):
    """Returns a copy of the work folder of the run."""
    copy = tmp_path / 'work'
    shutil.copytree(run / 'work', copy)
    (copy / 'last_checkpoint').write_text(str(copy / 'epoch_3.pth'))
    return copy


@pytest.fixture(scope='module')
def shapes(run):
    state = torch.load(run / 'work/epoch_3.pth', weights_only=False)['state_dict']
    return {name: tensor.shape for name, tensor in state.items()}


def rewrite(path, change):
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def of_a_different_model(checkpoint):
    checkpoint['state_dict']['query_embedding.weight'] = torch.zeros(7, 16)


def weights_alone(checkpoint):
    for key in ('optimizer', 'message_hub', 'meta'):
        del checkpoint[key]


class Code:
    def __reduce__(self):
        return print, ('run',)


DAMAGES = {
    'truncated': (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), 'not complete'),
    'empty': (lambda p: p.write_bytes(b''), r'\(0 bytes\) is not complete'),
    # The size was reserved, but the content was not written.
    'half-written': (
        lambda p: p.write_bytes(p.read_bytes()[:9000] + bytes(p.stat().st_size - 9000)),
        'not complete',
    ),
    'flipped byte': (flip_a_byte, 'damaged|not complete'),
    'no checkpoint': (lambda p: p.write_text('<html>Not found</html>'), 'not complete'),
    'missing': (lambda p: p.unlink(), 'does not exist'),
    'different model': (
        lambda p: rewrite(p, of_a_different_model),
        r'different model \(query_embedding.weight',
    ),
    'weights alone': (lambda p: rewrite(p, weights_alone), 'not the state of a training'),
    'code': (lambda p: rewrite(p, lambda c: c.update(x=Code())), 'wants to run code'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_chosen(work, shapes, damage):
    harm, reason = DAMAGES[damage]
    harm(work / 'epoch_3.pth')
    choice = choose_checkpoint(work, shapes)
    assert choice.path == work / 'epoch_2.pth'
    (text,) = choice.rejected
    assert 'epoch_3.pth' in text
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(text)


@pytest.mark.parametrize('pointer', [None, '', '/nowhere/epoch_9.pth'], ids=repr)
def test_the_newest_checkpoint_is_found_without_its_name(work, shapes, pointer):
    (work / 'last_checkpoint').unlink()
    if pointer is not None:
        (work / 'last_checkpoint').write_text(pointer)
    (work / 'epoch_1.pth').touch()  # the date does not decide
    # Files that do not hold the state of a training are not considered.
    shutil.copy(work / 'epoch_1.pth', work / 'best_coco_bbox_mAP_epoch_9.pth')
    shutil.copy(work / 'epoch_1.pth', work / 'nonfinite_step_9_process_0.pth')
    choice = choose_checkpoint(work, shapes)
    assert choice.path == work / 'epoch_3.pth' and len(choice.rejected) == 1


def test_nothing_to_go_on_from_is_not_a_new_start(work, shapes, tmp_path):
    assert not has_checkpoints(tmp_path)
    for path in work.glob('*.pth'):
        path.write_bytes(b'')
    assert has_checkpoints(work)
    message = 'found no checkpoint .*epoch_3.pth.*epoch_1.pth.*epoch_2.pth.* from scratch'
    with pytest.raises(InputError, match=message):
        choose_checkpoint(work, shapes)


def test_a_config_that_resumes_starts_from_scratch_in_an_empty_folder(run, tmp_path):
    run_tool(
        'train', run / 'tiny.py', '--work-dir', tmp_path / 'work',
        '--cfg-options', 'resume=True', 'train_cfg.max_epochs=1',
    )  # fmt: skip
    assert find_last_checkpoint(tmp_path / 'work') == str(tmp_path / 'work' / 'epoch_1.pth')


def test_a_run_goes_on_from_the_checkpoint_before(run, work, tmp_path, capfd):
    expected, losses = states_of(work), losses_of(work)
    DAMAGES['truncated'][0](work / 'epoch_3.pth')
    named = failure_of(
        capfd, 'train', run / 'tiny.py', '--work-dir', work, '--resume', work / 'epoch_3.pth'
    )
    assert 'epoch_3.pth' in named and 'is not complete' in named
    for log in work.glob('*/vis_data/scalars.json'):
        log.unlink()
    run_tool('train', run / 'tiny.py', '--work-dir', work, '--resume')
    printed = ''.join(capfd.readouterr())
    assert 'passed over: checkpoint' in printed and 'epoch_3.pth' in printed
    assert f'resuming from {work / "epoch_2.pth"} instead' in printed
    assert losses_of(work) == {step: losses[step] for step in (5, 6)}
    assert_same(states_of(work), expected)


def test_a_named_checkpoint_is_checked_to_the_last_byte(run, work, capfd):
    path = work / 'epoch_3.pth'
    with zipfile.ZipFile(path) as archive:
        tensors = [entry for entry in archive.infolist() if '/data/' in entry.filename]
        largest = max(tensors, key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    # Within a tensor, after the header of its entry.
    content[largest.header_offset + largest.file_size // 2] ^= 0xFF
    path.write_bytes(content)
    read_checkpoint(path)  # torch does not notice
    error = failure_of(capfd, 'train', run / 'tiny.py', '--work-dir', work, '--resume', path)
    assert 'epoch_3.pth is damaged' in error and 'has a different checksum' in error


def test_a_full_disk_stops_the_run_and_loses_nothing(run, tmp_path, capfd):
    hook = "custom_hooks = [dict(type='LimitFileSize', step=4)]\n"
    config = write_config(tmp_path, SHORT.format(epochs=3) + hook, data=run / 'shapes')
    work = tmp_path / 'work'
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        error = failure_of(capfd, 'train', config, '--work-dir', work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'epoch_2.pth could not be written (File too large; ' in error
    assert 'resume with --resume' in error
    left = [path.name for path in work.iterdir() if path.suffix in ('.pth', '.partial')]
    assert left == ['epoch_1.pth']
    assert find_last_checkpoint(work) == str(work / 'epoch_1.pth')
    config = write_config(tmp_path, SHORT.format(epochs=3), data=run / 'shapes')
    run_tool('train', config, '--work-dir', work, '--resume')
    assert_same(states_of(work), states_of(run / 'work'))


def test_the_best_and_the_newest_are_known_after_resuming(run, tmp_path):
    keep = 'default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))\n'
    first = write_config(
        tmp_path, SHORT.format(epochs=1).replace('9)', '1)') + keep, data=run / 'shapes'
    )
    work = tmp_path / 'work'
    run_tool('train', first, '--work-dir', work)
    (best,) = work.glob('best_*')

    def nothing_is_better(checkpoint):
        assert checkpoint['message_hub']['runtime_info']['best_score'] is not None
        checkpoint['message_hub']['runtime_info']['best_score'] = 2.0

    rewrite(work / 'epoch_1.pth', nothing_is_better)
    text = SHORT.format(epochs=2).replace('9)', '1)')
    run_tool('train', write_config(tmp_path, text + keep, data=run / 'shapes'),
             '--work-dir', work, '--resume')  # fmt: skip
    assert sorted(p.name for p in work.glob('*.pth')) == [best.name, 'epoch_2.pth']


CHANGED = {
    'learning rate': (
        'optim_wrapper = dict(optimizer=dict(lr=4e-4))\n',
        None,
        ('optim_wrapper.optimizer.lr  0.0008  0.0004', 'stay as they are in the checkpoint'),
    ),
    'seed': ('randomness = dict(seed=7)\n', None, ('randomness.seed', 'seed of the checkpoint')),
    'division of the batch': (
        'train_dataloader["batch_size"] = 2\noptim_wrapper = dict(accumulative_counts=2)\n',
        None,
        ('images of a process', 'accumulated micro-batches  1  2'),
    ),
    'total batch': ('train_dataloader["batch_size"] = 2\n', 'but this run has', ()),
    'frozen set': (
        "model['backbone']['frozen_stages'] = 1\n",
        'trained with different parameters frozen: this run trains',
        ('model.backbone.frozen_stages  -1  1',),
    ),
    'optimizer': (
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.1, weight_decay=0))\n",
        "trained with the optimizer 'AdamW', this run has 'SGD'",
        ("optim_wrapper.optimizer.type  'AdamW'  'SGD'",),
    ),
    'groups': (
        "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))\n",
        'the same parameters in different groups',
        ('lr_mult',),
    ),
}


@pytest.mark.parametrize('case', CHANGED, ids=lambda case: case.replace(' ', '_'))
def test_changes_are_shown_and_refused_where_wrong(run, work, tmp_path, capfd, case):
    extra, refusal, shown = CHANGED[case]
    config = write_config(tmp_path, SHORT.format(epochs=4) + extra, data=run / 'shapes')
    arguments = ('train', config, '--work-dir', work, '--resume')
    if refusal is None:
        run_tool(*arguments)
        printed = capfd.readouterr()
        assert 8 in losses_of(work)
    else:
        with pytest.raises(SystemExit):
            run_tool(*arguments)
        printed = capfd.readouterr()
        assert refusal in printed.err and 'load_from' in printed.err
        assert 'Traceback' not in printed.err
        assert find_last_checkpoint(work) == str(work / 'epoch_3.pth')
    text = words_of(printed.out + printed.err)
    assert 'train_cfg.max_epochs 3 4' in text
    for part in shown:
        assert ' '.join(part.split()) in text
    if case == 'learning rate':
        rates = [row['lr'] for row in scalars_of_last(work) if 'loss' in row]
        # Those of the checkpoint: its schedule has divided 8e-4 by 10 after the first epoch.
        assert rates == pytest.approx([8e-5, 8e-5])


def words_of(printed):
    """Returns a text without the lines and spaces of its tables."""
    return ' '.join(printed.replace('|', ' ').split())


def scalars_of_last(work):
    """Returns the records of the last run in a folder."""
    for log in sorted(work.glob('*/vis_data/scalars.json'))[:-1]:
        log.unlink()
    return scalars_of(work)


def test_other_classes_are_refused(run, work, capfd):
    def rename(checkpoint):
        checkpoint['meta']['dataset_meta']['classes'] = ('a', 'b', 'c', 'd', 'e')

    rewrite(work / 'epoch_3.pth', rename)
    with pytest.raises(SystemExit):
        run_tool('train', run / 'tiny.py', '--work-dir', work, '--resume')
    printed = words_of(''.join(capfd.readouterr()))
    assert "classes ('a', 'b', 'c', 'd', 'e') ('circle', " in printed
    assert "was trained with the classes ('a'," in printed
    assert 'no class in common; test with a checkpoint that was trained for this data' in printed


def test_weights_alone_are_not_resumed(run, work, capfd):
    rewrite(work / 'epoch_3.pth', weights_alone)
    error = failure_of(
        capfd, 'train', run / 'tiny.py', '--work-dir', work, '--resume', work / 'epoch_3.pth'
    )
    assert 'not the state of a training, it lacks optimizer, message_hub, meta.epoch' in error
    assert 'set load_from' in error


def test_settings_are_named_and_compared():
    pipeline = [dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    cfg = Config(
        dict(
            model=dict(type=nn.Linear, sizes=[1, 2]),
            train_dataloader=dict(batch_size=2, num_workers=3, dataset=dict(pipeline=pipeline)),
            work_dir='x',
        )
    )
    settings = training_settings(cfg)
    assert settings == {
        'model.type': 'Linear',
        'model.sizes': '[1, 2]',
        'train_dataloader.dataset.pipeline.0.type': "'RandomFlip'",
        'train_dataloader.dataset.pipeline.0.prob': '0.5',
        'train_dataloader.dataset.pipeline.1.type': "'PackDetInputs'",
    }
    meta = dict(settings=settings, batch=dict(world_size=2, batch_size=1, accumulation=1))
    now = dict(settings, extra='1' * 200)
    del now['model.sizes']
    rows, notes = describe_changes(meta, now, EffectiveBatch(1, 2), None)
    assert [(row.key, row.old, row.new) for row in rows] == [
        ('processes', '2', '1'),
        ('images of a process', '1', '2'),
        ('model.sizes', '[1, 2]', '-'),
        ('extra', '-', '1' * 77 + '...'),
    ]
    assert notes == ''
    # A checkpoint of mmengine holds no settings, so nothing is reported.
    assert describe_changes({}, settings, EffectiveBatch(1, 2), None) == ([], '')


def test_groups_of_other_constructors_are_compared_by_size():
    def state(*sizes):
        return dict(param_groups=[dict(params=list(range(size))) for size in sizes])

    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    check_optimizer({}, state(2), optimizer, 'x.pth')
    with pytest.raises(InputError, match=r'groups of \[1, 1\] tensors, this run has \[2\]'):
        check_optimizer({}, state(1, 1), optimizer, 'x.pth')


@pytest.mark.parametrize(
    ('kind', 'same'),
    [('SGD', True), ('torch.optim.SGD', True), (torch.optim.SGD, True), ('Renamed', True),
     ('torch.optim.Adam', False), ('NotInstalledHere', False)],
)  # fmt: skip
def test_an_optimizer_is_known_by_any_of_its_names(kind, same, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS.module_dict, 'Renamed', torch.optim.SGD)
    settings = training_settings(Config(dict(optim_wrapper=dict(optimizer=dict(type=kind)))))
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    arguments = dict(settings=settings), optimizer.state_dict(), optimizer, 'x.pth'
    if same:
        check_optimizer(*arguments)
    else:
        with pytest.raises(InputError, match=f"optimizer '{kind}', this run has 'SGD'"):
            check_optimizer(*arguments)
