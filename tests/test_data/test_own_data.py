"""The splits, files and classes of a dataset, found from its folder."""

import json
import multiprocessing
import os
import shutil
from collections import Counter
from unittest import mock

import pytest

from mmdet_dinov2.data.data_folder import DataFolder
from mmdet_dinov2.data.own_data import VAL_SHARE, find_own_data
from mmdet_dinov2.data.prediction_output import images_head
from mmdet_dinov2.errors import InputError

from .data_sets import write_coco, write_images, write_yolo
from .helpers import NAMES, coco_content


def tree(root):
    """Returns every file below a folder with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def test_annotations_beside_one_folder_of_images(tmp_path):
    root = tmp_path / 'data'
    for split in ('train', 'val', 'test'):
        write_coco(root / f'annotations/{split}.json', root / 'images')
    before = tree(root)
    data = find_own_data(root, tmp_path / 'cache')
    assert data.classes == NAMES
    for split in ('train', 'val', 'test'):
        assert data.splits[split].ann_file == str(root / f'annotations/{split}.json')
        assert data.splits[split].image_folder == str(root / 'images')
        assert data.splits[split].num_images == 3
    assert tree(root) == before and not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
    ('ann', 'images', 'prefix'),
    [
        ('annotations/instances_{}2017.json', '{}2017', ''),
        ('annotations/{}.json', '{}', ''),
        ('annotations/{}.json', 'images/{}', ''),
        ('annotations/{}.json', '{}/images', ''),
        ('{}.json', '.', 'pictures/'),
        ('annotations/{}_annotations.json', 'data', '{}/'),
        ('{}/labels.json', '{}/data', ''),
    ],
)
def test_usual_places(tmp_path, ann, images, prefix):
    for split in ('train', 'val'):
        write_coco(
            tmp_path / ann.format(split), tmp_path / images.format(split), 2, prefix.format(split)
        )
    if 'data' in images and '{}' in images:
        for split in ('train', 'val'):  # FiftyOne keeps images in data/ beside labels.json
            (tmp_path / split / 'data').rename(tmp_path / split / 'images')
            images = '{}/images'
    data = find_own_data(tmp_path, tmp_path / 'cache')
    for split in ('train', 'val'):
        assert data.splits[split].ann_file == str(tmp_path / ann.format(split))
        expected = tmp_path / images.format(split)
        assert data.splits[split].image_folder == str(expected)


def test_files_of_coco_without_boxes_are_passed_over(tmp_path):
    for split in ('train', 'val'):
        write_coco(tmp_path / f'annotations/instances_{split}2017.json', tmp_path / f'{split}2017')
        for kind in ('captions', 'person_keypoints', 'panoptic'):
            (tmp_path / f'annotations/{kind}_{split}2017.json').write_text('{}')
    (tmp_path / 'annotations/image_info_test2017.json').write_text('{}')
    data = find_own_data(tmp_path, tmp_path / 'cache')
    assert set(data.splits) == {'train', 'val'}
    assert 'instances_train2017' in data.splits['train'].ann_file


def roboflow(root, splits=('train', 'valid', 'test')):
    """Writes an export of Roboflow, whose category 0 is a heading."""
    for split in splits:
        content = write_coco(root / split / '_annotations.coco.json', root / split)
        for category in content['categories']:
            category['supercategory'] = 'animals'
        content['categories'].insert(0, dict(id=0, name='animals', supercategory='none'))
        (root / split / '_annotations.coco.json').write_text(json.dumps(content))


def test_export_of_roboflow(tmp_path):
    roboflow(tmp_path)
    data = find_own_data(tmp_path, tmp_path / 'cache')
    assert data.classes == NAMES
    assert any("'animals' (id 0) is not a class" in note for note in data.notes)
    assert data.splits['val'].image_folder == str(tmp_path / 'valid')
    assert set(data.splits) == {'train', 'val', 'test'}


def test_a_heading_with_boxes_is_a_class(tmp_path):
    roboflow(tmp_path)
    path = tmp_path / 'test/_annotations.coco.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['category_id'] = 0
    path.write_text(json.dumps(content))
    assert find_own_data(tmp_path, tmp_path / 'cache').classes == ('animals', *NAMES)


@pytest.mark.parametrize('name', ['train/_annotations.coco.json', 'annotations/boxes.json'])
def test_without_val_split_a_part_of_train_is_drawn(tmp_path, name):
    root = tmp_path / 'data'
    content = write_coco(root / name, root / 'images', 10)
    before = tree(root)
    data = find_own_data(root, tmp_path / 'cache')
    parts = {s: json.loads(open(data.splits[s].ann_file).read()) for s in ('train', 'val')}
    ids = {s: {image['id'] for image in part['images']} for s, part in parts.items()}
    assert len(ids['val']) == VAL_SHARE * 10 and not ids['val'] & ids['train']
    assert ids['val'] | ids['train'] == {image['id'] for image in content['images']}
    for split, part in parts.items():
        assert {a['image_id'] for a in part['annotations']} == ids[split]
        assert part['categories'] == content['categories']
        assert data.splits[split].image_folder == str(root / 'images')
    assert any('no val split: 2 of the 10' in note and 'seed 0' in note for note in data.notes)
    assert find_own_data(root, tmp_path / 'cache') == data
    assert tree(root) == before


def test_yolo_is_converted_once_and_again_when_labels_change(tmp_path):
    root, cache = tmp_path / 'data', tmp_path / 'cache'
    write_yolo(root, dict(train=coco_content(4), val=coco_content(2)))
    before = tree(root)
    data = find_own_data(root, cache)
    assert data.classes == NAMES
    train = data.splits['train']
    assert (train.num_images, train.image_folder) == (4, str(root / 'images/train'))
    assert train.ann_file.startswith(str(cache))
    written = tree(cache)
    assert find_own_data(root / 'data.yaml', cache).splits == data.splits
    # Only the lock is opened again.
    assert {path for path, time in tree(cache).items() if time != written[path]} <= {
        cache / '.lock'
    }
    assert tree(root) == before
    (root / 'labels/train/0.txt').write_text('1 0.5 0.5 0.2 0.2\n')
    changed = find_own_data(root, cache).splits
    assert changed['val'] == data.splits['val'] and changed['train'] != train
    old, new = (json.loads(open(s.ann_file).read()) for s in (train, changed['train']))
    assert len(old['annotations']) == 12 and len(new['annotations']) == 10


def _find(arguments):
    return find_own_data(*arguments)


def test_processes_convert_at_once_and_one_writes(tmp_path):
    root, cache = tmp_path / 'data', tmp_path / 'cache'
    write_yolo(root, dict(train=coco_content(30)))
    with multiprocessing.get_context('fork').Pool(4) as pool:
        found = pool.map(_find, [(root, cache)] * 4)
    assert all(data == found[0] for data in found)
    # The conversion and the two parts of it.
    assert len(list(cache.glob('*.json'))) == 3
    assert [path.name for path in cache.iterdir() if path.suffix != '.json'] == ['.lock']


@pytest.mark.parametrize('folder', ['work_dirs/first', 'runs/first', 'first'])
def test_work_folders_in_the_dataset_are_no_data(tmp_path, folder):
    write_yolo(tmp_path, dict(train=coco_content(5)))
    first = find_own_data(tmp_path, tmp_path / folder / 'data')
    again = find_own_data(tmp_path, tmp_path / 'second/data')
    assert again.warnings == first.warnings == ()
    assert 'YOLO labels' in again.notes[0]


def test_a_failed_conversion_leaves_no_file(tmp_path, monkeypatch):
    root, cache = tmp_path / 'data', tmp_path / 'cache'
    write_yolo(root, dict(train=coco_content(3)))
    monkeypatch.setattr('os.replace', mock.Mock(side_effect=OSError('disk full')))
    with pytest.raises(InputError, match=r'train-\w+.json could not be written \(disk full'):
        find_own_data(root, cache)
    assert [path.name for path in cache.iterdir()] == ['.lock']


def test_what_was_looked_for_and_where(tmp_path):
    (tmp_path / 'holiday').mkdir()
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(InputError) as caught:
        find_own_data(tmp_path, tmp_path / 'cache')
    for fact in (
        str(tmp_path), 'annotations/*.json', '_annotations.coco.json', 'data.yaml', "'names'",
        "such as 'notes.txt'",
    ):  # fmt: skip
        assert fact in str(caught.value)
    write_yolo(tmp_path / 'holiday', dict(train=coco_content(2)))
    with pytest.raises(InputError, match=rf'did you mean {tmp_path / "holiday"}\?'):
        find_own_data(tmp_path, tmp_path / 'cache')
    with pytest.raises(FileNotFoundError, match='none does not exist; check the path after --data'):
        find_own_data(tmp_path / 'none', tmp_path / 'cache')
    with pytest.raises(InputError, match='notes.txt is a file; give the folder'):
        find_own_data(tmp_path / 'notes.txt', tmp_path / 'cache')


def test_images_that_are_nowhere(tmp_path):
    write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images')
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(
        InputError, match=r"train.json' \(first '0.jpg'\) were not found; looked in"
    ):
        find_own_data(tmp_path, tmp_path / 'cache')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda root: (root / 'annotations/train.json').write_text('{'), 'not valid JSON'),
        (
            lambda root: shutil.copy(root / 'annotations/train.json', root / 'train_2.json'),
            r'several annotation files for the train split \(annotations/train.json, train_2.json',
        ),
        (
            lambda root: (root / 'annotations/train.json').write_text(
                json.dumps(dict(coco_content(2), categories=[]))
            ),
            'lists no categories',
        ),
        (
            lambda root: (root / 'annotations/train.json').write_text(json.dumps(coco_content(0))),
            'lists no images',
        ),
        (
            lambda root: (root / 'annotations/train.json').write_text(json.dumps(coco_content(1))),
            'has 1 image and there is no val split',
        ),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, change, message):
    write_coco(tmp_path / 'annotations/train.json', tmp_path / 'images')
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        find_own_data(tmp_path, tmp_path / 'cache')


def test_bccd_as_published_and_as_yolo(shared, tmp_path):
    root = shared / 'data/bccd'
    data = find_own_data(root, tmp_path / 'cache')
    assert data.classes == ('RBC', 'WBC', 'Platelets')
    sizes = {split: source.num_images for split, source in data.splits.items()}
    assert sizes == dict(train=205, val=87, test=72)
    contents = {
        split: dict(json.loads(open(source.ann_file).read()), folder=root / 'images')
        for split, source in data.splits.items()
    }
    write_yolo(tmp_path / 'yolo', contents)
    yolo = find_own_data(tmp_path / 'yolo', tmp_path / 'cache')
    assert yolo.classes == data.classes
    assert {split: source.num_images for split, source in yolo.splits.items()} == sizes
    for split, source in yolo.splits.items():
        assert boxes_by_image(json.loads(open(source.ann_file).read())) == pytest.approx(
            boxes_by_image(contents[split]), abs=2e-3
        )


def boxes_by_image(content):
    """Returns the corners of all boxes, clipped to their image, by image, class and order."""
    images = {image['id']: image for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}
    boxes, seen, counts = {}, set(), Counter()
    for annotation in content['annotations']:
        image = images[annotation['image_id']]
        x, y, w, h = annotation['bbox']
        key = (image['file_name'], names[annotation['category_id']], x, y, w, h)
        if key in seen:  # repeated boxes are dropped from YOLO labels
            continue
        seen.add(key)
        counts[key[:2]] += 1
        corners = (
            max(x, 0), max(y, 0), min(x + w, image['width']), min(y + h, image['height'])
        )  # fmt: skip
        for index, value in enumerate(corners):
            boxes[(*key[:2], counts[key[:2]], index)] = value
    return boxes


@pytest.mark.parametrize('drawn', [True, False])
def test_what_a_prediction_wrote_into_a_dataset_is_no_data(tmp_path, drawn):
    contents = {split: coco_content(2) for split in ('train', 'val')}
    write_yolo(tmp_path / 'data', contents)
    before = find_own_data(tmp_path / 'data', tmp_path / 'cache')
    for out in (tmp_path / 'data', tmp_path / 'data/predictions'):
        content = coco_content(2)
        write_images(out / 'pictures', content)
        rest = json.dumps(dict(content, annotations=[]))[1:]
        (out / 'images.json').write_text(f'{images_head(drawn)}, {rest}')
        (out / 'predictions.json').write_text('[]')
        (out / 'predictions.csv').write_text('image,class,score,x1,y1,x2,y2\n')
    after = find_own_data(tmp_path / 'data', tmp_path / 'cache')
    assert (after.classes, after.splits) == (before.classes, before.splits)
    # Pictures that no prediction drew may be the user's.
    pictures = [path for path in DataFolder(tmp_path / 'data').files if 'pictures' in path.parts]
    assert bool(pictures) is not drawn


def test_pipes_devices_and_links_to_themselves_are_no_data(tmp_path):
    root = tmp_path / 'data'
    for split in ('train', 'val'):
        write_coco(root / f'annotations/{split}.json', root / 'images')
    os.mkfifo(root / 'annotations/test.json')
    os.mkfifo(root / 'images/pipe.jpg')
    (root / 'images/zero.jpg').symlink_to('/dev/zero')
    (root / 'images/self').symlink_to('self')
    data = find_own_data(root, tmp_path / 'cache')
    assert {split: found.num_images for split, found in data.splits.items()} == dict(train=3, val=3)
