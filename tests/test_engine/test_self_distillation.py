"""Self-distillations through the tools: resumed, divided, on several processes, out of memory."""

import json
import shutil

import pytest
import torch
from mmdet.registry import MODELS

from mmdet_dinov2.checkpoint import load_backbone
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..self_distillation import write_self_distillation
from ..test_resume.test_choose import assert_same, losses_of, states_of
from ..tools import failure_of, run_command, run_tool, train_in_turns

MEASURES = ('target_entropy', 'patch_entropy', 'patch_cross_entropy', 'cls_spread')


def scalars_of(work):
    lines = []
    for path in sorted(work.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if 'loss' in line]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with a config, its data, and a run of 6 steps in ``whole``."""
    folder = tmp_path_factory.mktemp('ssl')
    config = write_self_distillation(folder)
    run_command('train', config, '--work-dir', folder / 'whole')
    return folder


def test_a_run_logs_losses_and_measures(run):
    lines = scalars_of(run / 'whole')
    assert [line['step'] for line in lines] == list(range(1, 7))
    for line in lines:
        assert {'loss', 'loss_dino', 'loss_ibot', 'loss_koleo', *MEASURES} <= line.keys()


def test_a_detector_starts_from_the_run(run):
    path = find_last_checkpoint(run / 'whole')
    content = torch.load(path, weights_only=False)
    arch = dict(
        embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32, ffn='mlp',
        layer_scale=1.0,
    )  # fmt: skip
    backbone = MODELS.build(dict(type='DINOv2', arch=arch, img_size=168, num_registers=1))
    assert load_backbone(backbone, path).missing == []
    teacher = content['state_dict']['teacher.backbone.blocks.1.norm1.weight']
    assert torch.equal(backbone.blocks[1].norm1.weight, teacher)
    student = content['state_dict']['student.backbone.blocks.1.mlp.fc1.weight']
    assert not torch.equal(backbone.blocks[1].mlp.fc1.weight, student)


def test_a_resumed_run_is_the_same(run, tmp_path):
    work = tmp_path / 'resumed'
    config = run / 'tiny_ssl.py'
    shutil.copytree(run / 'whole', work)
    for path in work.glob('*/'):
        shutil.rmtree(path)
    (work / 'iter_6.pth').unlink()
    (work / 'last_checkpoint').write_text(str(work / 'iter_3.pth'))
    run_command('train', config, '--work-dir', work, '--resume')
    assert_same(states_of(work), states_of(run / 'whole'))
    resumed = {line['step']: line for line in scalars_of(work)}
    assert sorted(resumed) == [4, 5, 6]
    for line in scalars_of(run / 'whole')[3:]:
        again = resumed[line['step']]
        assert [again[name] for name in ('loss', *MEASURES)] == [
            line[name] for name in ('loss', *MEASURES)
        ]


ALONE = "model['koleo_weight'] = 0.0\n"


def test_micro_batches_and_exhausted_memory_change_nothing(run, tmp_path, capfd):
    faults = """
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
custom_hooks += [
    dict(type='ExhaustMemory', faults=[[2, 0, 'backward', 1], [4, 0, 'student.dino_head', 1]])]
"""
    (tmp_path / 'shapes').symlink_to(run / 'shapes')
    runs = []
    for name, extra, options in (
        ('one', ALONE, ()),
        ('three', ALONE, ('--batch-size', '1')),
        ('redone', ALONE + faults, ()),
    ):
        config = write_self_distillation(tmp_path, extra, f'{name}.py')
        run_command('train', config, '--work-dir', tmp_path / name, *options)
        runs.append(scalars_of(tmp_path / name))
    assert [len(lines) for lines in runs] == [6, 6, 6]
    for whole, *others in zip(*runs, strict=True):
        for line in others:
            for value in ('loss', *MEASURES):  # the measures are made of sums over the step
                assert line[value] == pytest.approx(whole[value], rel=1e-3), (line, value)
    assert 'memory was exhausted 2 times' in capfd.readouterr().out


def test_a_collapse_ends_the_run_and_leaves_its_last_sound_weights(run, tmp_path, capfd):
    collapsing = """
custom_hooks = [
    dict(type='SelfDistillationHook', teacher_temperature=(0.03, 9.0), temperature_warmup=1.0),
    dict(type='CollapseGuardHook', patience=3, horizon=1, interval=1, max_cross_entropy=9.0)]
train_cfg = dict(max_iters=12)
"""
    (tmp_path / 'shapes').symlink_to(run / 'shapes')
    config = write_self_distillation(tmp_path, collapsing)
    work = tmp_path / 'work'
    message = failure_of(capfd, 'train', config, '--work-dir', work)
    assert 'the self-distillation has collapsed: for 3 steps, target_entropy is' in message
    assert f'which were sound, are in {work}/last_good.pth' in message
    content = torch.load(work / 'last_good.pth', weights_only=False)
    assert f'the weights after step {content["meta"]["iter"]},' in message
    assert content['meta']['iter'] < 9
    backbone = content['state_dict']['teacher.backbone.norm.weight']
    assert backbone.isfinite().all() and 'optimizer' in content


def test_what_does_not_work_says_so(run, capfd):
    config = run / 'tiny_ssl.py'
    work = ('--work-dir', run / 'failed')
    message = failure_of(capfd, 'train', config, *work, '--batch-size', 'auto')
    assert 'have none at all; give a number' in message
    message = failure_of(
        capfd, 'train', config, *work, '--cfg-options',
        f'train_dataloader.dataset.data_root={run / "whole"}',
    )  # fmt: skip
    assert 'has no photos' in message


@pytest.mark.slow
def test_processes_and_shards_change_nothing(tmp_path):
    trainings = {}
    for name, extra in (
        ('koleo', ''),
        ('alone', ALONE),
        ('sinkhorn', "model['centring'] = 'sinkhorn'\n"),
        ('sharded', "model_wrapper_cfg = dict(type='FullyShardedModel', reduce_dtype='float32')\n"),
    ):
        config = write_self_distillation(tmp_path, extra, f'{name}.py')
        trainings[name] = config
        if name != 'sharded':
            run_tool('train', config, '--work-dir', tmp_path / f'{name}1')
    train_in_turns(
        [
            [config, '--work-dir', tmp_path / f'{name}2', '--cfg-options',
             'train_dataloader.batch_size=2']
            for name, config in trainings.items()
        ],
        2,
        cwd=tmp_path,
    )  # fmt: skip
    for name in trainings:
        one = losses_of(tmp_path / f'{"koleo" if name == "sharded" else name}1')
        two = losses_of(tmp_path / f'{name}2')
        assert len(one) == len(two) == 6
        worst = max(abs(two[step] - one[step]) / one[step] for step in one)
        print(f'{name}: {worst:.1e}')
        assert worst < 1e-4, name
    one, two = (
        torch.load(find_last_checkpoint(tmp_path / name), weights_only=False)['state_dict']
        for name in ('koleo1', 'sharded2')
    )
    assert one.keys() == two.keys()
    assert torch.allclose(one['dino_center'], two['dino_center'], atol=1e-5)
