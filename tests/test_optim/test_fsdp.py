"""Sharded parameters on two CPU processes, compared with DDP."""

import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmdet_dinov2.checkpoint.sharded import divide_like, gather
from mmdet_dinov2.engine.optim.fsdp import FullyShardedModel, transformer_blocks
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..test_engine.test_distributed import CURVE
from ..test_resume.test_choose import losses_of
from ..tiny import tiny_detector
from ..tools import run_tool, train_in_turns, write_config

FSDP = """
model_wrapper_cfg = dict(type='FullyShardedModel', reduce_dtype='float32')
custom_hooks = [dict(type='MeasureParameters')]
"""
# Embeddings and the first of two blocks.
FROZEN = "model['backbone']['frozen_stages'] = 1\n"
CHECKPOINTED = "for part in ('backbone', 'encoder', 'decoder'): model[part]['with_cp'] = True\n"
COMPILED = "model['compiled'] = True\n"
BF16 = "model['backbone']['frozen_dtype'] = 'bfloat16'\n"
STEPS = CURVE.replace('max_epochs=3, val_interval=4', 'max_epochs=1, val_interval=2').replace(
    'batch_size=4', 'batch_size=2'
)
STEPS += FROZEN
DINOV3 = """
arch = {key: value for key, value in model['backbone']['arch'].items() if key != '_delete_'}
model['backbone'] = dict(
    _delete_=True, type='DINOv3', arch=arch, patch_size=14, num_registers=2, drop_path_rate=0.2,
    frozen_stages=1, with_cp=True, init_cfg=None)
# Also the shape of a real-time detector: no encoder, one level of several depths.
model['backbone']['out_indices'] = (0, 1)
model['neck'].update(in_channels=[32, 32], scale_factors=(1.0,), num_outs=1)
model['num_feature_levels'] = 1
model['encoder']['num_layers'] = 0
model['decoder']['layer_cfg']['cross_attn_cfg']['num_levels'] = 1
"""


def test_gradients_are_exchanged_once_a_step():
    """The backward pass reads the switch, after what mmengine does around the forward pass."""
    events = []

    class Module:
        data_preprocessor = staticmethod(lambda data, training: data)
        parse_losses = staticmethod(lambda losses: (losses, {}))
        set_requires_gradient_sync = staticmethod(events.append)

        def __call__(self, mode, loss):
            return loss

    model = SimpleNamespace(module=Module())
    wrapper = OptimWrapper(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1), accumulative_counts=3
    )
    wrapper.backward = lambda loss: (
        events.append('backward'),
        setattr(wrapper, '_inner_count', wrapper._inner_count + 1),
    )
    wrapper.step = lambda: events.append('step')
    wrapper.initialize_count_status(torch.nn.Linear(1, 1), 0, 5)
    for _ in range(5):
        FullyShardedModel.train_step(model, dict(loss=torch.ones(1)), wrapper)
    assert [e for e in events if e not in ('backward', 'step')] == [False, False, True, False, True]
    assert events[:2] == [False, 'backward'] and events.count('step') == 2


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Runs ten steps on two processes with DDP and FSDP, plain and with what saves memory."""
    folder = tmp_path_factory.mktemp('fsdp')
    variants = dict(
        ddp='',
        ddp_saving=CHECKPOINTED,
        ddp_frozen=CHECKPOINTED + BF16,
        fsdp=FSDP,
        fsdp_saving=FSDP + CHECKPOINTED + COMPILED,
        low=FSDP.replace('float32', 'bfloat16') + CHECKPOINTED,
        ddp_dinov3=DINOV3,
        fsdp_dinov3=DINOV3 + FSDP,
    )
    variants['fsdp_resumed'] = FSDP + 'train_cfg.update(max_epochs=2)\n'
    trainings = [
        [write_config(folder, STEPS + extra, name=f'{name}.py'), '--work-dir', folder / name]
        for name, extra in variants.items()
    ]
    trainings[-1] += ['--resume', folder / 'ddp/epoch_1.pth']
    return folder, train_in_turns(trainings, processes=2, cwd=folder)


def weights_of(work_dir):
    return torch.load(find_last_checkpoint(work_dir), weights_only=False)


@pytest.mark.slow
def test_losses_and_weights_equal_those_of_ddp(runs):
    folder, _ = runs
    expected, losses = losses_of(folder / 'ddp'), losses_of(folder / 'fsdp')
    assert len(losses) == 10
    for step, loss in losses.items():
        # Clipping at 0.1 happens in every step, so a wrong global norm would show.
        assert loss == pytest.approx(expected[step], rel=1e-4)
    ddp, fsdp = weights_of(folder / 'ddp'), weights_of(folder / 'fsdp')
    assert ddp['state_dict'].keys() == fsdp['state_dict'].keys()
    for name, tensor in ddp['state_dict'].items():
        torch.testing.assert_close(fsdp['state_dict'][name], tensor, rtol=1e-3, atol=1e-4)
    assert ddp['optimizer']['param_groups'][0].keys() == fsdp['optimizer']['param_groups'][0].keys()


@pytest.mark.slow
def test_dinov3_trains_as_with_ddp(runs):
    folder, _ = runs
    expected, losses = losses_of(folder / 'ddp_dinov3'), losses_of(folder / 'fsdp_dinov3')
    assert len(losses) == 10 and losses == pytest.approx(expected, rel=1e-4)
    ddp, fsdp = (weights_of(folder / run)['state_dict'] for run in ('ddp_dinov3', 'fsdp_dinov3'))
    names = [name for name in ddp if name.startswith('backbone.')]
    assert 'backbone.rope_embed.periods' in names
    for name in names:
        torch.testing.assert_close(fsdp[name], ddp[name], rtol=1e-4, atol=1e-5, msg=name)
    biases = [name for name in names if name.endswith('qkv.bias')]
    assert len(biases) == 2 and all((fsdp[name].chunk(3)[1] == 0).all() for name in biases)


@pytest.mark.slow
def test_bf16_communication_and_checkpointed_blocks(runs):
    folder, _ = runs
    expected, losses = losses_of(folder / 'ddp'), losses_of(folder / 'low')
    assert losses[1] == pytest.approx(expected[1], rel=1e-5)
    for step, loss in losses.items():
        assert loss == pytest.approx(expected[step], rel=0.02)
    # Averaged in bf16, gradients have different values.
    assert losses != losses_of(folder / 'fsdp')


@pytest.mark.slow
def test_recomputed_and_compiled_layers(runs):
    folder, _ = runs
    expected = losses_of(folder / 'ddp')
    assert losses_of(folder / 'ddp_saving') == pytest.approx(expected, rel=1e-6)
    assert losses_of(folder / 'fsdp_saving') == pytest.approx(expected, rel=1e-4)
    names = weights_of(folder / 'ddp')['state_dict'].keys()
    assert weights_of(folder / 'fsdp_saving')['state_dict'].keys() == names


@pytest.mark.slow
def test_frozen_weights_in_bf16_on_two_processes(runs):
    folder, _ = runs
    expected, losses = losses_of(folder / 'ddp'), losses_of(folder / 'ddp_frozen')
    assert losses[1] == pytest.approx(expected[1], rel=0.01) and losses[1] != expected[1]
    states = [weights_of(folder / name)['state_dict'] for name in ('ddp', 'ddp_frozen')]
    frozen = [name for name in states[0] if name.startswith(('backbone.blocks.0', 'backbone.p'))]
    for name in frozen:
        assert torch.equal(*(state[name] for state in states)), name
    trained = 'backbone.blocks.1.mlp.fc1.weight'
    assert not torch.equal(*(state[trained] for state in states))


@pytest.mark.slow
def test_parameters_are_divided(runs):
    _, printed = runs
    found = re.findall(r'parameters here: (\d+)/(\d+)', printed)
    assert found and all(0.5 <= int(local) / int(whole) < 0.55 for local, whole in found)


@pytest.mark.slow
def test_checkpoints_resume_on_one_process_and_test(runs, tmp_path, capfd):
    folder, _ = runs
    config = write_config(
        tmp_path,
        STEPS.replace('max_epochs=1', 'max_epochs=2').replace('batch_size=2', 'batch_size=4'),
        data=folder / 'shapes',
    )
    checkpoint = find_last_checkpoint(folder / 'fsdp')
    run_tool('train', config, '--work-dir', tmp_path / 'resumed', '--resume', checkpoint)
    assert sorted(losses_of(tmp_path / 'resumed')) == list(range(11, 21))
    run_tool('test', config, checkpoint, '--work-dir', tmp_path / 'tested')
    assert 'coco/bbox_mAP' in capfd.readouterr().out


@pytest.mark.slow
def test_fsdp_resumes_what_one_process_saved(runs):
    folder, _ = runs
    assert sorted(losses_of(folder / 'fsdp_resumed')) == list(range(11, 21))


def test_blocks_and_layers_are_units():
    model = tiny_detector()
    units = transformer_blocks(model)
    expected = [*model.backbone.blocks, *model.encoder.layers, *model.decoder.layers]
    assert {id(unit) for unit in units} == {id(unit) for unit in expected}


def test_frozen_weights_in_bf16_are_refused():
    model = tiny_detector(backbone=dict(frozen_stages=1, frozen_dtype='bfloat16'))
    with pytest.raises(InputError, match="frozen_dtype='bfloat16' does not work with Fully"):
        FullyShardedModel(model)


def test_unknown_dtypes_are_refused():
    with pytest.raises(InputError, match="reduce_dtype .* it is 'int8'"):
        FullyShardedModel(torch.nn.Linear(2, 2), reduce_dtype='int8')


def test_whole_tensors_stay_as_they_are():
    state = dict(a=[torch.ones(2)], b=(3, 'x'))
    gathered = gather(state)
    assert torch.equal(gathered['a'][0], state['a'][0]) and gathered['b'] == (3, 'x')
    assert divide_like(state['a'][0], torch.zeros(2)) is state['a'][0]
