"""Pipelines and detectors that predict in tiles."""

import pytest
from mmengine.config import Config

from mmdet_dinov2.config.tiles import tiled_model, tiled_pipeline, trains_on_tiles, use_tiles
from mmdet_dinov2.errors import InputError

from ..tiny import detector_cfg

PIPELINE = [
    dict(type='mmdet_dinov2.LoadImageFromFile', backend_args=None),
    dict(type='mmdet.Resize', scale=(100, 50), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id',)),
]


@pytest.mark.parametrize('loading', ['LoadImageFromFile', 'mmcv.LoadImageFromFile'])
def test_the_image_is_passed_on(loading):
    before = [dict(PIPELINE[0], type=loading), *PIPELINE[1:]]
    first, resize, annotations, last = tiled_pipeline(before, 64)
    assert first == dict(type='TiledLoadImageFromFile', backend_args=None)
    assert [resize, annotations] == PIPELINE[1:3]
    assert last == dict(type='PackTiledInputs', meta_keys=('img_id',))
    assert tiled_pipeline([first, resize, annotations, last], 64) == [
        first, resize, annotations, last
    ]  # fmt: skip
    without = tiled_pipeline([PIPELINE[0], PIPELINE[3]], 64)
    assert without[0]['reduced_side'] == 64
    assert before[0]['type'] == loading


@pytest.mark.parametrize(
    'pipeline',
    [
        [*PIPELINE[:2], dict(type='Normalize'), PIPELINE[3]],
        PIPELINE[1:],
        PIPELINE[:-1],
        [dict(type='LoadImageFromNDArray'), PIPELINE[3]],
    ],
)
def test_other_transforms_are_refused(pipeline):
    with pytest.raises(InputError, match='tiles need a test pipeline of LoadImageFromFile'):
        tiled_pipeline(pipeline)


def test_joined_datasets_predict_in_tiles():
    parts = [dict(pipeline=PIPELINE), dict(dataset=dict(pipeline=PIPELINE))]
    loader = dict(dataset=dict(type='ConcatDataset', datasets=parts))
    model = dict(detector_cfg(), tile=dict(size=64))
    cfg = Config(dict(model=model, test_dataloader=loader))
    use_tiles(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    for dataset in (first, second.dataset):
        assert dataset.pipeline[0].type == 'TiledLoadImageFromFile'


def test_a_config_predicts_in_tiles():
    loader = dict(dataset=dict(dataset=dict(pipeline=PIPELINE)))
    cfg = Config(dict(model=detector_cfg(), val_dataloader=loader, test_dataloader=loader))
    use_tiles(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline[0].type == PIPELINE[0]['type']
    cfg.model.tile = dict(size=32, overlap=0.3)
    use_tiles(cfg, 64)
    assert cfg.model.tile == dict(size=64, overlap=0.3)
    for split in ('val', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.dataset.pipeline
        assert pipeline[0].type == 'TiledLoadImageFromFile'
        assert pipeline[-1].type == 'PackTiledInputs'


def test_other_detectors_are_refused():
    assert tiled_model(detector_cfg(), dict(size=64))['tile'] == dict(size=64)
    with pytest.raises(InputError, match='tiles need a PaddingAwareDINO.*is a FasterRCNN'):
        tiled_model(dict(type='FasterRCNN'), dict(size=64))


def test_training_on_tiles_is_seen_inside_of_wrappers():
    pipeline = [dict(type='mmdet.RandomTile', size=64)]
    dataset = dict(type='RepeatDataset', dataset=dict(pipeline=pipeline))
    assert trains_on_tiles(dict(train_dataloader=dict(dataset=dataset)))
    assert not trains_on_tiles(dict(train_dataloader=dict(dataset=dict(pipeline=PIPELINE))))
    assert not trains_on_tiles({})
