"""Limits of detections follow the image with the most boxes."""

import pytest

from mmdet_dinov2.data.crowded_images import raise_detection_limit

from .helpers import coco_content


@pytest.fixture
def crowded(data):
    """Datasets with 60 boxes in an image of the val split; test scores the same file."""
    content = coco_content()
    first = content['annotations'][0]
    content['annotations'] = [dict(first, id=index + 1) for index in range(60)]
    content['annotations'].append(dict(first, id=99, iscrowd=1))
    data.write('val', content)
    data.cfg.model = dict(type='PaddingAwareDINO', num_queries=80, test_cfg=dict(max_per_img=50))
    return data


def test_a_limit_that_is_too_low_is_raised(crowded):
    note = raise_detection_limit(crowded.cfg)
    assert 'has 60 boxes, so model.test_cfg.max_per_img=50 became 60' in note
    assert crowded.cfg.model.test_cfg.max_per_img == 60
    assert raise_detection_limit(crowded.cfg) is None
    assert crowded.check('val') == []


def test_the_limit_of_an_image_in_tiles(crowded):
    crowded.cfg.model.tile = dict(size=64)
    assert raise_detection_limit(crowded.cfg) is None  # 1000
    crowded.cfg.model.tile.max_per_img = 25
    crowded.cfg.model.num_queries = 3  # of a tile
    (finding,) = crowded.check('val')
    assert '`model.tile.max_per_img`=25' in finding.message
    raise_detection_limit(crowded.cfg)
    assert crowded.cfg.model.tile.max_per_img == 60
    assert crowded.cfg.model.test_cfg.max_per_img == 50
    assert crowded.check('val') == []


def test_what_the_user_says_stays(crowded):
    assert raise_detection_limit(crowded.cfg, {'model.test_cfg.max_per_img': 50}) is None
    crowded.path('val').write_text('broken')
    assert raise_detection_limit(crowded.cfg) is None
    crowded.cfg.model.test_cfg = None
    assert raise_detection_limit(crowded.cfg) is None


def test_training_on_tiles_is_not_limited_by_queries(crowded):
    crowded.write('train', coco_content())
    crowded.cfg.model.num_queries = 1
    assert any('model.num_queries' in finding.message for finding in crowded.check('train'))
    crowded.train.pipeline = [dict(type='RandomTile', size=64)]
    assert not any('model.num_queries' in finding.message for finding in crowded.check('train'))
