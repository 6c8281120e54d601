"""Predicted boxes in the folder of a dataset: merged into the training data, marked and counted."""

import json
import shutil

import pytest

from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.data.own_config import use_own_data
from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.data.preflight import check_config
from mmdet_dinov2.errors import InputError

from .data_sets import write_coco, write_images
from .helpers import NAMES, Data


@pytest.fixture
def root(tmp_path):
    """Returns a dataset of three splits of 3 images."""
    root = tmp_path / 'data'
    for split in ('train', 'val', 'test'):
        write_coco(root / f'annotations/{split}.json', root / split)
    return root


def write_predicted(path, photos, folder, boxes=1, name=NAMES[1], **marks):
    """Writes predicted boxes of photos, with a category id of its own."""
    images = [
        dict(id=50 + i, file_name=photo, width=40, height=30) for i, photo in enumerate(photos)
    ]
    annotations = [
        dict(
            id=900 + 10 * i + k, image_id=50 + i, category_id=3, bbox=[1, 2, 8, 9 + k], score=0.7,
            **marks,
        )
        for i in range(len(photos))
        for k in range(boxes if i < len(photos) - 1 else 0)
    ]  # fmt: skip
    categories = [dict(id=3, name=name)]
    content = dict(
        info=dict(folder=str(folder)), images=images, annotations=annotations, categories=categories
    )
    path.write_text(json.dumps(content))
    return content


def test_photos_with_predicted_boxes_are_added_to_the_training_data(root, tmp_path):
    photos = tmp_path / 'photos'
    names = ['a.jpg', 'b.jpg', 'none.jpg']
    content = write_predicted(root / 'predicted.json', names, photos, boxes=2, predicted=True)
    write_images(photos, content)
    data = find_own_data(root, tmp_path / 'cache')
    train = data.splits['train']
    merged = read_annotations(train.ann_file)
    # none.jpg has no box: nobody knows whether there is nothing on it.
    assert train.num_images == merged.num_images == 5
    assert train.image_folder == str(tmp_path)
    assert list(merged.file_names) == [
        *(f'data/train/{i}.jpg' for i in range(3)), 'photos/a.jpg', 'photos/b.jpg'
    ]  # fmt: skip
    assert merged.num_annotations == 9 + 4
    assert len(set(merged.ids)) == 13 and len(set(merged.image_ids)) == 5
    written = json.loads(open(train.ann_file).read())
    added = [entry for entry in written['annotations'] if entry.get('predicted')]
    assert len(added) == 4 and {entry['category_id'] for entry in added} == {9}  # of NAMES[1]
    assert {entry['score'] for entry in added} == {0.7}
    assert any('2 of 3 photos of' in note and '4 predicted boxes' in note for note in data.notes)
    assert data.splits['val'].num_images == 3
    # The same again, to the name of the file.
    assert find_own_data(root, tmp_path / 'cache') == data


def test_the_check_counts_predicted_boxes(root, tmp_path):
    content = write_predicted(root / 'predicted_2.json', ['a.jpg', 'x.jpg'], root / 'more', 3)
    for entry in content['annotations'][:2]:
        entry['predicted'] = True  # the third was corrected
    (root / 'predicted_2.json').write_text(json.dumps(content))
    write_images(root / 'more', content)
    (tmp_path / 'other').mkdir()
    cfg = Data(tmp_path / 'other').cfg
    use_own_data(cfg, find_own_data(root, tmp_path / 'cache'))
    told = [f.message for f in check_config(cfg, ['train', 'val']) if 'were predicted' in f.message]
    assert len(told) == 1 and told[0].startswith('2 of the 12 boxes of')


def test_labels_come_before_predictions_and_scored_photos_stay_out(root, tmp_path):
    write_predicted(
        root / 'predicted.json', ['train/0.jpg', 'val/1.jpg', 'test/2.jpg', '-.jpg'], root
    )
    data = find_own_data(root, tmp_path / 'cache')
    assert data.splits['train'].ann_file == str(root / 'annotations/train.json')
    assert any('1 photos of' in note and 'keep only these' in note for note in data.notes)
    for split in ('val', 'test'):
        assert any(f'photos of the {split} split, and are left out' in w for w in data.warnings)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_copies_of_labeled_photos_count_as_these(root, tmp_path, split):
    photos = tmp_path / 'photos'
    content = write_predicted(root / 'predicted.json', ['a.jpg', 'b.jpg', '-.jpg'], photos)
    write_images(photos, content)
    shutil.copy(root / split / '1.jpg', photos / 'a.jpg')
    data = find_own_data(root, tmp_path / 'cache')
    assert data.splits['train'].num_images == 4
    said = data.notes if split == 'train' else data.warnings
    reason = 'have labels' if split == 'train' else 'are photos of the val split'
    assert any(f'1 photos of {root}/predicted.json {reason}' in line for line in said)


def test_photos_that_are_nowhere_are_named(root, tmp_path):
    write_predicted(root / 'predicted.json', ['a.jpg', 'x.jpg'], tmp_path / 'gone')
    data = find_own_data(root, tmp_path / 'cache')
    assert data.splits['train'].num_images == 3
    assert any('1 photos of' in w and "were not found ('a.jpg')" in w for w in data.warnings)


def test_a_class_that_the_labels_lack_is_refused(root, tmp_path):
    write_predicted(root / 'predicted.json', ['a.jpg', 'x.jpg'], tmp_path, name='unicorn')
    with pytest.raises(InputError, match="has boxes of 'unicorn', which the labels"):
        find_own_data(root, tmp_path / 'cache')


@pytest.mark.parametrize('info', [[1], 'text', None, dict(folder=5)])
def test_info_of_any_kind(root, tmp_path, info):
    path = root / 'predicted.json'
    content = dict(write_predicted(path, ['a.jpg', 'b.jpg'], 'nowhere'), info=info)
    path.write_text(json.dumps(content))
    write_images(root, content)
    assert find_own_data(root, tmp_path / 'cache').splits['train'].num_images == 4
