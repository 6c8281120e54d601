"""Non-finite losses and gradients."""

import math
import os
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmdet_dinov2.checkpoint import read_checkpoint
from mmdet_dinov2.engine.hooks.nonfinite import BadStep, NonFiniteHook, describe_images
from mmdet_dinov2.engine.resume.replay import replay
from mmdet_dinov2.engine.step import StepState
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..test_engine.test_loops import scalars_of
from ..test_resume.test_choose import losses_of
from ..tools import ROOT, failure_of, run_script, run_tool, write_config

HOOKS = """
custom_imports = dict(imports=['mmdet_dinov2', 'tests.faults'])
custom_hooks = [{hook}]
log_processor = dict(window_size=1)
train_cfg = dict(max_epochs=2, val_interval=3)
"""


def config_with(folder, hook, extra='', **options):
    return write_config(folder, HOOKS.format(hook=hook) + extra, **options)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tmp_path_factory.mktemp('data') / 'shapes'


@pytest.fixture(scope='module')
def stopped(tmp_path_factory, data):
    """A run of 2 epochs of 4 steps, whose images are spoilt from the sixth step on."""
    folder = tmp_path_factory.mktemp('stopped')
    extra = """
default_hooks['nonfinite'] = dict(max_steps=2)
optim_wrapper = dict(accumulative_counts=2)
train_dataloader["batch_size"] = 1
"""
    hook = "dict(type='SpoilImages', steps=(6, 100))"
    return config_with(folder, hook, extra, data=data), folder / 'work'


def test_a_run_of_bad_losses_is_stopped_with_the_names_of_the_images(stopped, capfd):
    config, work = stopped
    error = failure_of(capfd, 'train', config, '--work-dir', work)
    assert 'not finite in 2 steps in a row' in error
    for step in (6, 7):
        (part,) = (p for p in error.split('; ') if f'step {step}: ' in p)
        assert part.count('/train/') == 2 and part.count('.jpg id ') == 2, part
    assert f'neither the weights nor the last checkpoint ({work / "epoch_1.pth"})' in error
    assert f'kept in {work / "nonfinite_step_7_process_0.pth"}, ' in error
    assert sorted(path.name for path in work.glob('*.pth')) == [
        'epoch_1.pth',
        'nonfinite_step_7_process_0.pth',
    ]
    read_checkpoint(find_last_checkpoint(work))


def test_the_kept_batch_is_replayed(stopped, capfd):
    config, work = stopped
    kept = work / 'nonfinite_step_7_process_0.pth'
    content = read_checkpoint(kept)
    # The weights are those of step 5: the bad steps did not reach them.
    assert all(t.isfinite().all() for t in content['state_dict'].values() if t.is_floating_point())
    cfg = Config.fromfile(config)
    report = replay(cfg, kept)
    assert not report.finite and len(report.losses) == 2 and report.gradients
    assert report.first_module is None  # the input was non-finite already
    # With finite images, everything is finite.
    content['batch']['inputs'] = [torch.ones_like(i) for i in content['batch']['inputs']]
    torch.save(content, work / 'mended.pt')
    assert replay(cfg, work / 'mended.pt').finite
    content['state_dict']['backbone.blocks.1.mlp.fc1.weight'][3, 5] = torch.nan
    torch.save(content, work / 'weights.pt')
    with pytest.raises(SystemExit) as caught:
        run_tool('replay_batch', config, work / 'weights.pt')
    assert caught.value.code == 1
    printed = capfd.readouterr().out
    assert 'micro-batch 1: loss: nan' in printed
    assert 'non-finite output: backbone.blocks.1.mlp.fc1 (LinearGELU)' in printed
    assert 'not hold a batch' in failure_of(capfd, 'replay_batch', config, work / 'epoch_1.pth')


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('polygons', [False, True])
def test_a_kept_batch_has_its_masks_and_its_precision(tmp_path, data, capfd, amp, polygons):
    extra = f"""
default_hooks['nonfinite'] = dict(max_steps=1)
train_cfg = dict(max_epochs=1, val_interval=3)
train_dataloader['dataset']['pipeline'][1].update(with_mask=True, poly2mask={not polygons})
model['mask_head'] = dict(mask_dims=8, num_upsamples=1)
"""
    flags = ['--amp'] * amp
    config = config_with(tmp_path, '', extra, name='undisturbed.py', data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'undisturbed', *flags)
    config = config_with(tmp_path, "dict(type='SpoilGradients', steps=[2])", extra, data=data)
    work = tmp_path / 'work'
    failure_of(capfd, 'train', config, '--work-dir', work, *flags)
    kept = work / 'nonfinite_step_2_process_0.pth'
    (terms,) = replay(Config.fromfile(config), kept).losses
    assert terms['loss_mask'] > 0
    assert terms['loss'] == pytest.approx(losses_of(tmp_path / 'undisturbed')[2], rel=1e-6)
    content = read_checkpoint(kept)
    assert content['meta']['autocast'] == ('bfloat16' if amp else None)
    content['meta']['autocast'] = None if amp else 'bfloat16'
    torch.save(content, work / 'other.pth')
    (other,) = replay(Config.fromfile(config), work / 'other.pth').losses
    assert abs(other['loss'] - terms['loss']) > 1e-5


def test_single_bad_steps_change_nothing_and_do_not_stop(tmp_path, data, capfd):
    hooks = "dict(type='SpoilImages', steps=[2, 3, 5]), dict(type='SpoilGradients', steps=[7])"
    extra = "default_hooks['nonfinite'] = dict(max_steps=3)\n"
    config = config_with(tmp_path, hooks, extra, data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    losses = losses_of(tmp_path / 'work')
    assert [step for step, loss in losses.items() if not math.isfinite(loss)] == [2, 3, 5]
    printed = ''.join(capfd.readouterr())
    assert (
        'Step 3: the loss is not finite; the step does not change the weights (2 in a row'
        in printed
    )
    assert 'Step 7: the gradient is not finite' in printed and '(1 in a row' in printed
    state = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=False)
    tensors = [*state['state_dict'].values()]
    tensors += [v for s in state['optimizer']['state'].values() for v in s.values()]
    assert all(t.isfinite().all() for t in tensors if t.is_floating_point())
    steps = {float(s['step']) for s in state['optimizer']['state'].values()}
    assert max(steps) == 8 - 4  # a step that was left out is not a step of the optimizer


def test_replaced_costs_are_logged(tmp_path, data, capfd):
    config = config_with(tmp_path, "dict(type='CountCosts', step=3, count=7)", data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    rows = [row for row in scalars_of(tmp_path / 'work') if 'loss' in row]
    assert [row.get('nonfinite_costs') for row in rows] == [None, None, 7, 0, 0, 0, 0, 0]
    printed = ''.join(capfd.readouterr())
    assert 'Step 3: 7 matching costs were not finite and were replaced' in printed


def small_wrapper(**options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    cfg = dict(type='GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=0.1), **options)
    return model, build_optim_wrapper(model, cfg)


@pytest.mark.parametrize(
    'clip', [None, dict(max_norm=0.1), dict(type='value', clip_value=0.1)], ids=repr
)
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_non_finite_steps_are_left_out(clip, bad):
    model, wrapper = small_wrapper(clip_grad=clip)
    before = model.weight.detach().clone()
    wrapper.update_params((model(torch.ones(1, 3)) * bad).sum())
    assert wrapper.step_left_out and torch.equal(model.weight, before)
    assert not wrapper.optimizer.state
    wrapper.update_params(model(torch.ones(1, 3)).sum())
    assert not wrapper.step_left_out and not torch.equal(model.weight, before)


@pytest.mark.parametrize(
    'clip', [None, dict(max_norm=0.1), dict(type='value', clip_value=0.1)], ids=repr
)
def test_finite_steps_equal_those_of_mmengine(clip):
    weights = []
    for kind in ('GuardedOptimWrapper', 'OptimWrapper'):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = dict(type='SGD', lr=0.1)
        wrapper = build_optim_wrapper(
            model, dict(type=kind, optimizer=optimizer, clip_grad=clip and dict(clip))
        )
        for _ in range(3):
            wrapper.update_params(model(torch.ones(1, 3)).pow(2).sum())
        weights.append(model.weight)
    assert torch.equal(*weights)


@pytest.mark.filterwarnings('ignore:torch.cuda.amp')
def test_loss_scaling_of_fp16_does_not_count(monkeypatch):
    """The scaler leaves out steps whose scaled gradient overflows; their loss is finite."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    model = nn.Linear(3, 2)
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.loss_scaler = torch.amp.GradScaler('cpu')
    before, scale = model.weight.detach().clone(), wrapper.loss_scaler.get_scale()
    loss = (model(torch.ones(1, 3)) * 1e35).sum()
    wrapper.update_params(loss)
    assert loss.isfinite() and torch.equal(model.weight, before)
    assert wrapper.loss_scaler.get_scale() == scale / 2
    hook = NonFiniteHook(max_steps=1)
    loop = SimpleNamespace(step=StepState(sums=dict(nonfinite_costs=0)))
    runner = SimpleNamespace(train_loop=loop, optim_wrapper=wrapper)
    hook.after_train_iter(runner, 0, None, dict(loss=loss.item()))
    assert hook._steps == []


@pytest.mark.slow
def test_all_processes_stop_and_name_the_images_of_the_bad_one(tmp_path, data):
    extra = "default_hooks['nonfinite'] = dict(max_steps=2)\n"
    hook = "dict(type='SpoilImages', steps=(2, 100), rank=1)"
    config = config_with(tmp_path, hook, extra, data=data)
    work = tmp_path / 'work'
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', work, cwd=tmp_path,
        env=dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'),
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count('error: the loss was not finite in 2 steps in a row') == 1
    (part,) = re.findall(r'step 3: ([^;.]*(?:\.jpg[^;.]*)*)', result.stderr)[:1]
    assert part.count('.jpg id ') == 2, part  # those of one process only
    assert [path.name for path in work.glob('nonfinite*')] == ['nonfinite_step_3_process_1.pth']
    assert not replay(Config.fromfile(config), work / 'nonfinite_step_3_process_1.pth').finite


def test_images_of_all_processes_are_named():
    first = [BadStep(6, ()), BadStep(7, ('a.jpg id 1',))]
    second = [BadStep(6, ('b.jpg id 2',)), BadStep(7, tuple('cdefghijk'))]
    assert describe_images([first, second]) == (
        'step 6: b.jpg id 2; step 7: a.jpg id 1, c, d, e, f, g, h, i and 2 more'
    )


@pytest.mark.parametrize('value', [0, -1, True, 2.0, None])
def test_max_steps_must_be_a_positive_whole_number(value):
    with pytest.raises(
        InputError, match='max_steps of NonFiniteHook must be a whole number of at least 1'
    ):
        NonFiniteHook(max_steps=value)
