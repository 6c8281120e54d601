"""How many images an evaluation predicts at once."""

import pytest
from mmengine.config import Config

from mmdet_dinov2.engine.evaluation_batch import fill_evaluation_batch
from mmdet_dinov2.models import PaddingAwareDINO


def sizes(model='PaddingAwareDINO', train=dict(batch_size=4), **val):  # noqa: B006
    loader = dict(num_workers=1, **val)
    cfg = Config(dict(model=dict(type=model), train_dataloader=train, val_dataloader=loader))
    cfg.test_dataloader = cfg.val_dataloader
    fill_evaluation_batch(cfg)
    return cfg.val_dataloader.get('batch_size'), cfg.test_dataloader.get('batch_size')


def test_it_is_that_of_the_training():
    assert sizes() == sizes(PaddingAwareDINO) == sizes('mmdet.PaddingAwareDINO') == (4, 4)


def test_the_config_has_the_last_word():
    assert sizes(batch_size=2) == (2, 2)
    assert sizes(batch_sampler=dict(type='BatchSampler')) == (None, None)


@pytest.mark.parametrize('model', ['DINO', 'FasterRCNN', 'PackedTTAModel'])
def test_others_predict_one_image_at_once(model):
    assert sizes(model) == (1, 1)


def test_images_in_tiles_come_one_by_one():
    cfg = Config(dict(model=dict(type='PaddingAwareDINO', tile=dict(size=64))))
    cfg.train_dataloader, cfg.val_dataloader = dict(batch_size=4), dict(num_workers=1)
    fill_evaluation_batch(cfg)
    assert cfg.val_dataloader.batch_size == 1


def test_without_a_training_it_is_one():
    assert sizes(train=None) == (1, 1)


def test_a_config_without_an_evaluation_stays():
    cfg = Config(dict(model=dict(type='DINO'), val_dataloader=None))
    fill_evaluation_batch(cfg)
    assert cfg.val_dataloader is None and 'test_dataloader' not in cfg
