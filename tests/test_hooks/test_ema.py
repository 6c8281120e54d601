"""Averages of the trained weights, compared with mmengine's averages of all weights."""

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS
from torch import nn

from mmdet_dinov2.engine.hooks.ema import TrainedEMAHook, trained_part
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..test_resume.test_choose import assert_same, losses_of
from ..tools import run_tool, write_config

FROZEN = "model['backbone']['frozen_stages'] = 1\n"
BF16 = "model['backbone']['frozen_dtype'] = 'bfloat16'\n"
HOOK = (
    "custom_hooks = [dict(type='{}', ema_type='ExpMomentumEMA', momentum=0.3, update_buffers={})]\n"
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(False)
        self.trained = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.shared = self.trained[0]
        self.register_buffer('counter', torch.zeros(2), persistent=False)


def step(model):
    with torch.no_grad():
        for parameter in model.trained.parameters():
            parameter.add_(torch.randn_like(parameter))
        model.trained[1].running_mean.add_(1)


@pytest.mark.parametrize('kind', ['ExponentialMovingAverage', 'StochasticWeightAverage'])
@pytest.mark.parametrize('update_buffers', [False, True])
def test_averages_are_those_of_the_whole_model(kind, update_buffers):
    model = Model()
    cfg = dict(type=kind, update_buffers=update_buffers)
    whole = MODELS.build(dict(cfg, model=model))
    part = MODELS.build(dict(cfg, model=trained_part(model)))
    for _ in range(4):
        step(model)
        whole.update_parameters(model)
        part.update_parameters(model)
    expected, state = whole.state_dict(), part.state_dict()
    assert expected.keys() - state.keys() == {'module.frozen.weight', 'module.frozen.bias'}
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    assert part.module.shared.weight is part.module.get_submodule('trained.0').weight


def test_the_copy_holds_no_frozen_parameter():
    model = Model()
    names = {name for name, _ in trained_part(model).named_parameters()}
    assert names == {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained_part(model).state_dict().keys() == {
        name for name in model.state_dict() if not name.startswith('frozen.')
    }


class _Runner:
    def __init__(self, model):
        self.model, self.iter = model, 0


def test_weights_are_exchanged_for_validation_once_something_was_averaged():
    model = Model()
    hook = TrainedEMAHook(momentum=0.5)
    hook.before_run(_Runner(model))
    step(model)  # a checkpoint that was loaded
    loaded = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hook.before_val_epoch(None)
    assert_same(dict(model.state_dict()), loaded)
    hook.after_val_epoch(None)
    for _ in range(3):
        hook.after_train_iter(_Runner(model), 0)
        step(model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    averages = {name: p.clone() for name, p in hook.ema_model.module.named_parameters()}
    hook.before_val_epoch(None)
    for name, average in averages.items():
        assert torch.equal(model.state_dict()[name], average)
        assert not torch.equal(average, weights[name]), name
    hook.after_val_epoch(None)
    assert_same(dict(model.state_dict()), weights)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Trains with mmengine's hook, with this one, and with frozen weights in bf16."""
    folder = tmp_path_factory.mktemp('ema')
    # Under another name the runner leaves mmengine's hook alone.
    from mmengine.registry import HOOKS

    HOOKS.register_module(name='WholeEMAHook', module=EMAHook, force=True)
    variants = dict(
        whole=HOOK.format('WholeEMAHook', False),
        part=HOOK.format('EMAHook', False),
        bf16=HOOK.format('TrainedEMAHook', True) + BF16,
    )
    for name, extra in variants.items():
        config = write_config(folder, FROZEN + extra, name=f'{name}.py')
        run_tool('train', config, '--work-dir', folder / name)
    return folder


def checkpoint_of(folder):
    return torch.load(find_last_checkpoint(folder), weights_only=False)


def test_checkpoints_are_those_of_mmengines_hook(runs):
    whole, part = checkpoint_of(runs / 'whole'), checkpoint_of(runs / 'part')
    for key in ('state_dict', 'ema_state_dict'):
        assert_same(dict(part[key]), dict(whole[key]), key)
    name = 'backbone.blocks.0.attn.qkv.weight'  # frozen: one tensor, written once
    shared = [part['state_dict'][name], part['ema_state_dict'][f'module.{name}']]
    assert shared[0].data_ptr() == shared[1].data_ptr()


def test_frozen_weights_in_bf16_are_saved_as_they_were(runs):
    expected, saved = checkpoint_of(runs / 'part'), checkpoint_of(runs / 'bf16')
    frozen = [
        n for n in expected['state_dict'] if n.startswith(('backbone.blocks.0', 'backbone.p'))
    ]
    assert len(frozen) > 10
    for name in frozen:
        for state in (saved['state_dict'][name], saved['ema_state_dict'][f'module.{name}']):
            assert torch.equal(state, expected['state_dict'][name]), name


@pytest.mark.parametrize('start', ['whole', 'bf16'])
def test_resumes_from_the_checkpoints_of_either_hook(runs, tmp_path, start):
    """The second epoch is repeated from the checkpoint of the first."""
    extra = FROZEN + HOOK.format('TrainedEMAHook', start == 'bf16')
    extra += BF16 if start == 'bf16' else ''
    config = write_config(tmp_path, extra, data=runs / 'shapes')
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--resume', runs / start / 'epoch_1.pth'
    )
    expected = checkpoint_of(runs / start)
    resumed = checkpoint_of(tmp_path / 'work')
    for key in ('state_dict', 'ema_state_dict'):
        assert_same(dict(resumed[key]), dict(expected[key]), key)
    losses = losses_of(tmp_path / 'work')
    assert losses and losses.items() <= losses_of(runs / start).items()


@pytest.mark.slow
def test_tests_take_the_weights_of_the_checkpoint(runs, tmp_path, capfd):
    """These are the averaged weights, also for a model without the hook."""
    tables = []
    for extra in (FROZEN + BF16, FROZEN + BF16 + HOOK.format('TrainedEMAHook', False)):
        config = write_config(tmp_path, extra, data=runs / 'shapes')
        checkpoint = find_last_checkpoint(runs / 'bf16')
        run_tool('test', config, checkpoint, '--work-dir', tmp_path / 'tested')
        printed = capfd.readouterr().out
        tables.append([line for line in printed.splitlines() if 'bbox_mAP:' in line])
    assert tables[0] and [t.split('bbox_mAP:')[1].split()[0] for t in tables[0]] == [
        t.split('bbox_mAP:')[1].split()[0] for t in tables[1]
    ]
