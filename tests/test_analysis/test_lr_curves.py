"""Simulated learning rates against their formulas."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmdet_dinov2.analysis.lr_curves import draw_lr_curves, epoch_length, lr_curves
from mmdet_dinov2.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 30


def curve_of(name: str, **options):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.merge_from_dict(options)
    return lr_curves(cfg, LENGTH)


def cosine(step: int, lr: float, warmup: float, total: int) -> float:
    """Returns the rate of a warm-up from 0.01 x lr, then a cosine down to 0.01 x lr."""
    if step < warmup:
        return lr * (0.01 + 0.99 * step / (warmup - 1))
    share = (step - warmup) / (total - warmup)
    return lr * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


@pytest.mark.parametrize(
    ('name', 'lr', 'warmup', 'epochs'),
    [
        ('dino_dinov2_b_12ep_cosine', 1e-4, 1, 12),
        ('dino_dinov2_b_30ep_adamw', 3e-4, 2.5, 30),
        ('dino_dinov2_b_200ep_adamw', 1e-4, 20, 200),
    ],
)
def test_cosine_schedules(name, lr, warmup, epochs):
    (curve,) = curve_of(name)
    total = epochs * LENGTH
    for step in (0, int(warmup * LENGTH) // 2, int(warmup * LENGTH) + 5, total // 2, total - 1):
        (index,) = np.flatnonzero(curve.iterations == step - step % (-(-total // 4000)))
        step = curve.iterations[index]
        expected = cosine(step, lr, round(warmup * LENGTH), total)
        assert curve.rates[index] == pytest.approx(expected, rel=0.02, abs=lr * 0.002), step
    assert curve.iterations[-1] == total - 1


@pytest.mark.parametrize(
    ('name', 'lr', 'epochs', 'milestones'),
    [
        ('dino_dinov2_b_12ep', 1e-4, 12, [11]),
        ('dino_dinov2_s_50ep', 1e-4, 50, [40]),
        ('dino_dinov2_b_50ep_sgd', 1e-3, 50, [20, 40]),
    ],
)
def test_step_schedules(name, lr, epochs, milestones):
    (curve,) = curve_of(name)
    edges = [0, *milestones, epochs]
    assert len(curve.rates) == epochs * LENGTH
    for drops, (begin, end) in enumerate(zip(edges, edges[1:], strict=False)):
        part = curve.rates[begin * LENGTH : end * LENGTH]
        assert part == pytest.approx(np.full(len(part), lr * 0.1**drops))


def test_warm_up_and_decay_of_fine_tuning():
    curves = curve_of('dino_dinov2_b_ft_12ep')
    full = next(c for c in curves if any(n.startswith('encoder.') for n in c.names))
    assert full.rates[0] == pytest.approx(1e-4 * 0.001)
    assert full.rates[125] == pytest.approx(1e-4 * (0.001 + 0.999 * 125 / 249), rel=1e-6)
    assert full.rates[329] == pytest.approx(1e-4)
    assert full.rates[330] == pytest.approx(1e-5)
    block = next(c for c in curves if 'backbone.blocks.0.attn.qkv.weight' in c.names)
    assert block.rates / full.rates == pytest.approx(np.full(360, 0.7**12))


def test_picture(tmp_path):
    path = tmp_path / 'new' / 'lr.png'
    draw_lr_curves(curve_of('dino_dinov2_quickstart'), path, 'quick start')
    assert cv2.imread(str(path)).shape[:2] == (612, 1080)


def test_the_epoch_length_is_required():
    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_quickstart.py')
    with pytest.raises(InputError, match='optimizer steps per epoch is needed'):
        lr_curves(cfg)
    with pytest.raises(InputError, match='at least 1 step, but is 0'):
        lr_curves(cfg, 0)


@pytest.mark.parametrize(('drop_last', 'steps'), [(False, 4), (True, 3)])
def test_an_epoch_has_the_steps_of_its_training(tmp_path, drop_last, steps):
    for number in range(10):
        Image.new('RGB', (9, 9)).save(tmp_path / f'{number}.png')
    cfg = Config.fromfile(ROOT / 'configs/self_distillation/dinov2_quickstart.py')
    cfg.train_dataloader.update(batch_size=3, drop_last=drop_last)
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    init_default_scope('mmdet')
    assert epoch_length(cfg) == steps
