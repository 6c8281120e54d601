"""One value for the size of images changes pipelines and windows in proportion."""

import copy

import pytest
from mmengine.config import Config

from mmdet_dinov2.config.files import find_config
from mmdet_dinov2.config.image_size import set_longest_side
from mmdet_dinov2.engine.training import read_config
from mmdet_dinov2.errors import InputError


@pytest.fixture
def cfg():
    return Config.fromfile(find_config('dino_dinov2_s_rt'))


def test_all_sizes_follow(cfg):
    before = copy.deepcopy(cfg.to_dict())
    set_longest_side(cfg, 384)
    assert cfg.longest_side == 384 and cfg.model.backbone.window_size == 12
    for split in ('val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.pipeline[1].scale == (384, 384)
    whole, cropped = cfg.train_dataloader.dataset.pipeline[3].transforms
    scales = [(side, side) for side in range(288, 481, 24)]
    assert whole[0].scales == cropped[0].scales == cropped[2].scales == cfg.train_scales == scales
    assert cropped[1].crop_size == (192, 288)
    assert cfg.train_pipeline == cfg.train_dataloader.dataset.pipeline
    assert cfg.test_pipeline == cfg.val_dataloader.dataset.pipeline
    set_longest_side(cfg, 512)
    assert cfg.to_dict() == before


def test_shares_of_an_image_stay(cfg):
    crop = dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.6, 0.6))
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=dict(pipeline=[crop]))
    set_longest_side(cfg, 640)
    assert cfg.train_dataloader.dataset.dataset.pipeline[0] == crop


@pytest.mark.parametrize('side', [0, 500, -512, '512', 512.0, True])
def test_sides_that_cannot_be(cfg, side):
    with pytest.raises(InputError, match='longest_side must be a multiple of 32 pixels'):
        set_longest_side(cfg, side)


def test_windows_of_a_part_of_a_token(cfg):
    cfg.model.backbone.window_size = 15
    with pytest.raises(InputError, match=r'windows of 11.25 tokens out of .*window_size=15'):
        set_longest_side(cfg, 384)
    assert cfg.test_pipeline[1].scale == (512, 512)


def test_as_an_option(tmp_path):
    options = {'longest_side': 640, 'model.backbone.window_size': 16}
    cfg = read_config('dino_dinov2_s_rt', work_dir=tmp_path, options=options)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (640, 640)
    assert cfg.model.backbone.window_size == 16  # what is set has the last word
    with pytest.raises(InputError, match='longest_side=640 needs a config that has longest_side'):
        read_config('dino_dinov2_s_ft', work_dir=tmp_path, options={'longest_side': 640})
