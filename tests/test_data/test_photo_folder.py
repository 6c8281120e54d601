"""The photos of a folder as a dataset."""

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS

from mmdet_dinov2.errors import InputError, MissingFileError


def photos(folder, **kwargs):
    return DATASETS.build(dict(type='PhotoFolder', data_root=str(folder), pipeline=[], **kwargs))


def test_all_photos_below_a_folder(tmp_path):
    (tmp_path / 'deep').mkdir()
    for name in ('b.png', 'a.jpg', 'deep/c.png'):
        cv2.imwrite(str(tmp_path / name), np.zeros((5, 7, 3), np.uint8))
    (tmp_path / 'notes.txt').write_text('no photo')
    dataset = photos(tmp_path)
    assert len(dataset) == 3
    found = {dataset[i]['img_path'] for i in range(3)}
    assert found == {str(tmp_path / name) for name in ('a.jpg', 'b.png', 'deep/c.png')}
    assert [dataset[i]['img_id'] for i in range(3)] == [0, 1, 2]
    assert [photos(tmp_path)[i]['img_path'] for i in range(3)] == [
        dataset[i]['img_path'] for i in range(3)
    ]


def test_errors(tmp_path):
    with pytest.raises(InputError, match='set its data_root'):
        photos('')
    with pytest.raises(MissingFileError, match='does not exist'):
        photos(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='has no photos'):
        photos(tmp_path)
