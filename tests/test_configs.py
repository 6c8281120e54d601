"""Every config builds, and says what its docstring must say."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(ROOT.glob('configs/*.py'))
PARTS = sorted(ROOT.glob('configs/_base_/**/*.py'))


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    num_levels = cfg.model.neck.num_outs
    layer = cfg.model.encoder.layer_cfg
    assert layer.self_attn_cfg.num_levels == num_levels == len(model.strides)
    assert model.backbone.embed_dims == cfg.model.neck.in_channels
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        Compose(loader.dataset.pipeline)
        assert not any(t.type == 'Pad' for t in loader.dataset.pipeline)
    build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config_states_command_and_batch(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f'configs/{path.name}' in text
    assert 'Batch:' in text and ' = ' in text


@pytest.mark.parametrize('path', PARTS, ids=name_of)
def test_parts_parse(path):
    assert Config.fromfile(path)


def test_the_12_epoch_recipe():
    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_12ep.py')
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    assert model.strides == (8, 16, 32, 64)
    assert {p.requires_grad for p in model.backbone.parameters()} == {False}
    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    trained = {n: rates[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    assert set(trained.values()) == {1e-4}
    assert any(name.startswith('neck.') for name in trained)
    optim = cfg.optim_wrapper
    assert (optim.optimizer.type, optim.optimizer.weight_decay) == ('AdamW', 1e-4)
    assert optim.clip_grad == dict(max_norm=0.1, norm_type=2)
    assert cfg.train_dataloader.batch_size * 4 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[0].milestones == [11]
    scales = cfg.train_dataloader.dataset.pipeline[3].transforms[0][0].scales
    assert [tuple(s) for s in scales] == [(s, 1333) for s in range(480, 801, 32)]


def test_the_12_epoch_recipe_trains_a_step_at_full_size():
    from .tiny import data_sample, total_loss

    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_12ep.py')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.backbone.blocks[11].mlp.fc2.weight.clone()
    losses = model.loss(torch.randn(1, 3, 518, 518), [data_sample(518, 518, 3)])
    optim_wrapper.update_params(total_loss(losses))
    assert torch.isfinite(total_loss(losses))
    assert torch.equal(model.backbone.blocks[11].mlp.fc2.weight, before)


@pytest.mark.parametrize('schedule', ['step_12ep', 'cosine_12ep'])
def test_schedules_follow_their_formula(schedule):
    from mmengine.registry import PARAM_SCHEDULERS

    cfg = Config.fromfile(ROOT / f'configs/_base_/schedules/{schedule}.py')
    epoch_length = 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = []
    for part in cfg.param_scheduler:
        part = dict(part)
        scheduler_type = PARAM_SCHEDULERS.get(part.pop('type'))
        if part.pop('convert_to_iter_based', False):
            scheduler = scheduler_type.build_iter_from_epoch(
                optimizer=optimizer, **part, epoch_length=epoch_length
            )
        else:
            scheduler = scheduler_type(optimizer=optimizer, **part)
        schedulers.append(scheduler)
    rates = []
    for step in range(12 * epoch_length):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()
    if schedule == 'step_12ep':
        expected = [1.0] * 220 + [0.1] * 20
        assert rates == pytest.approx(expected)
    else:
        assert rates[0] == pytest.approx(0.01)
        assert rates[10] == pytest.approx(0.01 + 0.99 * 10 / 19)
        assert rates[130] == pytest.approx(0.505, abs=0.01)
        assert min(rates[20:]) == rates[-1] == pytest.approx(0.01, abs=1e-3)
