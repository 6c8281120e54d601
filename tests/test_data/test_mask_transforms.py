"""The augmentations of the configs keep masks and boxes together."""

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config

from mmdet_dinov2.data import generate_shapes
from mmdet_dinov2.data.seeded import seed_everything


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """Sample data, whose boxes touch all sides of the masks."""
    return generate_shapes(tmp_path_factory.mktemp('masks') / 'shapes', 12, 1)


def smaller(node):
    """Returns transforms for pictures of at most 260 pixels: lengths are a quarter, areas too."""
    if isinstance(node, dict):
        return {
            key: _quarter(value)
            if key in ('scale', 'scales', 'img_scale') or (key, node.get('crop_type')) in _CROPS
            else smaller(value)
            for key, value in node.items()
        }
    return [smaller(part) for part in node] if isinstance(node, (list, tuple)) else node


_CROPS = (('crop_size', 'absolute'), ('crop_size', 'absolute_range'))


def _quarter(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(_quarter, value))
    return value // 4


NAMES = ('detr', 'lsj_1024', 'mosaic_mixup', 'rescale_crop')


@pytest.mark.parametrize('name', NAMES)
def test_masks_and_boxes_stay_together(shapes, root, name):
    pipeline = Config.fromfile(root / f'configs/_base_/augmentations/{name}.py').train_pipeline
    pipeline = smaller([part.to_dict() for part in pipeline])
    assert pipeline[1]['type'] == 'LoadAnnotations'
    pipeline[1]['with_mask'] = True
    dataset = DATASETS.build(
        dict(
            type='ClassNameCocoDataset',
            data_root=f'{shapes}/',
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=('circle', 'rectangle', 'triangle', 'star', 'cross')),
            pipeline=pipeline,
        )
    )
    recomputed = any(part.get('recompute_bbox') for part in pipeline)
    total = exact = 0
    for seed in range(40):
        seed_everything(seed)
        sample = dataset[seed % len(dataset)]
        if sample is None:
            continue
        instances = sample['data_samples'].gt_instances
        masks = instances.masks
        assert masks.masks.shape == (len(instances), *sample['inputs'].shape[1:])
        bounds = masks.get_bboxes(type(instances.bboxes)).tensor.numpy()
        boxes = instances.bboxes.tensor.numpy()
        seen = masks.areas > 0
        # Of enlarged pictures, a pixel of the file is several here.
        slack = 6 * np.ones(4)
        within = np.concatenate([bounds[:, :2] - boxes[:, :2], boxes[:, 2:] - bounds[:, 2:]], 1)
        assert (within[seen] >= -slack).all(), seed
        total += len(instances)
        exact += int((np.abs(within[seen]) <= slack).all(axis=1).sum())
    assert total > 40
    # Without recomputing, boxes of objects that a crop cuts are larger than what is left.
    assert exact >= (0.95 if recomputed else 0.7) * total
