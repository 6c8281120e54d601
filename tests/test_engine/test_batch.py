"""The effective batch."""

import pytest
from mmengine.config import Config

from mmdet_dinov2.engine.batch import EffectiveBatch, check_accumulation, keep_batch_size
from mmdet_dinov2.errors import InputError


def accumulation_config(batch_size: int, total: int | None = 16) -> Config:
    cfg = dict(train_dataloader=dict(batch_size=batch_size), optim_wrapper={})
    if total is not None:
        cfg['auto_scale_lr'] = dict(base_batch_size=total)
    return Config(cfg)


@pytest.mark.parametrize(
    ('world_size', 'batch_size', 'expected'), [(4, 4, 1), (1, 4, 4), (2, 1, 8), (1, 16, 1)]
)
def test_keep_batch_size(world_size, batch_size, expected):
    cfg = accumulation_config(batch_size)
    batch = keep_batch_size(cfg, world_size)
    assert cfg.optim_wrapper.accumulative_counts == expected
    assert batch == EffectiveBatch(world_size, batch_size, expected)
    assert batch.total == 16
    assert str(batch).endswith('= 16 images a step')


@pytest.mark.parametrize(
    ('world_size', 'batch_size', 'message'),
    [
        (3, 2, r'16 images .* 3 processes x 2 images; .* totals are 12 and 18 .* divides 16'),
        (1, 3, r'totals are 15 and 18 .*batch_size to one of \[1, 2, 4, 8, 16\]'),
        (4, 8, r'nearest possible totals are 32 .*batch_size to one of \[1, 2, 4\]'),
    ],
)
def test_totals_that_cannot_be_reached(world_size, batch_size, message):
    with pytest.raises(InputError, match=message):
        keep_batch_size(accumulation_config(batch_size), world_size)


def test_keep_batch_size_needs_a_total():
    with pytest.raises(InputError, match='needs auto_scale_lr=dict'):
        keep_batch_size(accumulation_config(4, total=None), 1)


@pytest.mark.parametrize('counts', [0, -1, 1.5, True])
def test_bad_accumulation(counts):
    with pytest.raises(InputError, match='accumulative_counts must be a whole number'):
        check_accumulation(dict(accumulative_counts=counts))
