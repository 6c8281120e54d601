"""The boxes that arrive from a dataset of any format are those that were put in."""

import json
import os
import random

import pytest
from mmengine.config import Config

from mmdet_dinov2.data import check_config
from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.data.own_config import use_own_data
from mmdet_dinov2.data.own_data import find_own_data

from .writers import CLASSES, WRITERS, random_pictures


def arrived(data, split):
    """Returns the boxes of a split by picture file and class, with their corners."""
    found = data.splits[split]
    coco = read_annotations(found.ann_file)
    images = [coco.image(index) for index in range(coco.num_images)]
    paths = {
        i['id']: os.path.join(found.image_folder, i['file_name']).replace('\\', '/') for i in images
    }
    names = {category['id']: category['name'] for category in coco.categories}
    boxes = {path: [] for path in paths.values()}
    for entry in map(coco.annotation, range(coco.num_annotations)):
        boxes[paths[entry['image_id']]].append((names[entry['category_id']], *entry['bbox']))
    sizes = {paths[image['id']]: (image['width'], image['height']) for image in images}
    return boxes, sizes


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(('format_', 'way'), WRITERS, ids=map(' '.join, WRITERS))
def test_boxes_arrive(tmp_path, root, format_, way, seed):
    rng = random.Random(f'{format_} {way} {seed}')
    pictures = random_pictures(rng, ('train', 'val', 'test')[: rng.choice([2, 3])])
    folder = tmp_path / 'my data'
    folder.mkdir()
    WRITERS[format_, way](rng, folder, pictures, way)
    (folder / '.hidden.json').write_text('{')
    data = find_own_data(folder, tmp_path / 'cache')
    assert sorted(data.classes) == sorted(CLASSES)
    assert data.warnings == ()
    assert set(data.splits) == {known.split for known in pictures}
    for split in data.splits:
        boxes, sizes = arrived(data, split)
        expected = [known for known in pictures if known.split == split]
        assert len(boxes) == len(expected)
        for known in expected:
            (path,) = (path for path in boxes if path.endswith(f'/{split}/{known.name}'))
            assert os.path.isfile(path) and sizes[path] == known.size
            assert len(boxes[path]) == len(known.boxes)
            for got, wanted in zip(sorted(boxes[path]), sorted(known.boxes), strict=True):
                assert got[0] == wanted[0] and got[1:] == pytest.approx(wanted[1:], abs=1e-3)
    cfg = Config.fromfile(root / 'configs/dino_dinov2_quickstart.py')
    use_own_data(cfg, data)
    assert {finding.severity for finding in check_config(cfg)} <= {'info'}
    assert json.dumps(cfg.own_data.path) == json.dumps(str(folder))
