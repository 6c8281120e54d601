"""Files of predictions."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from mmdet_dinov2.analysis.predictions import read_predictions
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.instance_masks import encode_masks

from ..columns import columns_of_entries

COCO = columns_of_entries(
    'val.json', [dict(id=4, file_name='4.jpg')], [dict(id=7, name='a'), dict(id=3, name='b')], []
)
ENTRY = dict(image_id=4, category_id=3, bbox=[1.0, 2.0, 3.0, 4.0], score=0.5)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_json(tmp_path):
    assert read_predictions(write(tmp_path / 'p.json', [ENTRY]), COCO) == [ENTRY]


def test_pickle_of_the_test_tool(tmp_path):
    instances = dict(
        bboxes=torch.tensor([[1.0, 2.0, 4.0, 6.0]]),
        labels=torch.tensor([1]),
        scores=torch.tensor([0.5]),
    )
    path = tmp_path / 'p.pkl'
    path.write_bytes(pickle.dumps([dict(img_id=4, ori_shape=(5, 6), pred_instances=instances)]))
    assert read_predictions(path, COCO) == [ENTRY]
    instances['labels'][0] = 2
    path.write_bytes(pickle.dumps([dict(img_id=4, pred_instances=instances)]))
    with pytest.raises(InputError, match='detector with 2 classes'):
        read_predictions(path, COCO)


def test_masks_are_read_in_every_form(tmp_path):
    coco = dataclasses.replace(COCO, widths=np.array([8.0]), heights=np.array([5.0]))
    mask = np.zeros((5, 8), dtype=bool)
    mask[1:4, 2:7] = True
    (expected,) = encode_masks(mask[None])
    text = dict(expected, counts=expected['counts'].decode())
    polygon = [[2, 1, 7, 1, 7, 4, 2, 4]]
    for segmentation in (text, polygon):
        entry = dict(ENTRY, segmentation=segmentation)
        (found,) = read_predictions(write(tmp_path / 'p.json', [entry]), coco)
        assert found == dict(ENTRY, segmentation=expected)
    instances = dict(
        bboxes=torch.tensor([[1.0, 2.0, 4.0, 6.0]]),
        labels=torch.tensor([1]),
        scores=torch.tensor([0.5]),
        masks=[expected],
    )
    path = tmp_path / 'p.pkl'
    path.write_bytes(pickle.dumps([dict(img_id=4, pred_instances=instances)]))
    assert read_predictions(path, coco) == [dict(ENTRY, segmentation=expected)]
    # Without all masks there are boxes only.
    mixed = write(tmp_path / 'p.json', [ENTRY, dict(ENTRY, segmentation=text)])
    assert read_predictions(mixed, coco) == [ENTRY, ENTRY]
    wrong = write(tmp_path / 'p.json', [dict(ENTRY, segmentation=dict(text, size=[8, 5]))])
    with pytest.raises(
        InputError, match='segmentation of entry 0 must be polygons, or run lengths'
    ):
        read_predictions(wrong, coco)


def test_code_in_a_pickle_never_runs(tmp_path):
    marker = tmp_path / 'marker'

    class Bad:
        def __reduce__(self):
            return open, (str(marker), 'w')

    class BadStorage:
        def __reduce__(self):
            # A pickled tensor refers to this; torch's own function would unpickle the content.
            return torch.storage._load_from_bytes, (pickle.dumps(Bad()),)

    for bad in (Bad(), BadStorage()):
        (tmp_path / 'p.pkl').write_bytes(pickle.dumps([bad]))
        with pytest.raises(InputError, match='give a JSON file in COCO format'):
            read_predictions(tmp_path / 'p.pkl', COCO)
    assert not marker.exists()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[', 'is not valid JSON'),
        ({'a': 1}, 'must hold a list of predictions, but holds a dict'),
        ([dict(ENTRY, score=None)], r'entry 0 must have a bbox of 4 numbers .* and None'),
        ([ENTRY, dict(image_id=4)], 'entry 1 must be a dict with the keys'),
        ('[' * 100_000, 'is not valid JSON'),
        ([dict(ENTRY, image_id=[4])], r'entry 0 is of image \[4\]'),
        ([dict(ENTRY, image_id=5)], 'image 5 and category 3, which val.json does not have'),
    ],
)
def test_other_json_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_predictions(write(tmp_path / 'p.json', content), COCO)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.json do not exist'):
        read_predictions(tmp_path / 'none.json', COCO)
    with pytest.raises(InputError, match='must end in .json or .pkl'):
        read_predictions(write(tmp_path / 'p.txt', ''), COCO)


def test_a_label_below_zero_is_no_class(tmp_path):
    found = dict(bboxes=torch.zeros(1, 4), labels=torch.tensor([-1]), scores=torch.ones(1))
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps([dict(img_id=4, pred_instances=found)]))
    with pytest.raises(InputError, match='IndexError: a label is negative'):
        read_predictions(tmp_path / 'p.pkl', COCO)
