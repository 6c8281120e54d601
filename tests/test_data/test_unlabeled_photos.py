"""Folders of unlabeled photos: labeled photos are left out, those of scored splits refused."""

import os
import shutil

import pytest

from mmdet_dinov2.data.unlabeled_photos import find_unlabeled_photos, labeled_photos
from mmdet_dinov2.errors import InputError

from .data_sets import write_images
from .helpers import Data, coco_content
from .images import jpeg


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of four photos of different content, one of them in a folder."""
    root = tmp_path / 'photos'
    (root / 'deep').mkdir(parents=True)
    for seed, name in enumerate(('a.jpg', 'b.JPG', 'c.jpeg', 'deep/a.jpg')):
        (root / name).write_bytes(jpeg(45 + seed, 30, seed))
    (root / 'notes.txt').write_text('none')
    (root / '.hidden.jpg').write_bytes(jpeg())
    (root / 'gone.jpg').symlink_to(root / 'nowhere.jpg')
    return root


def test_photos_are_listed_with_their_folders_and_sizes(folder):
    found = find_unlabeled_photos(folder, {})
    assert found.names == ('a.jpg', 'b.JPG', 'c.jpeg', 'deep/a.jpg')
    assert found.dead_links == ('gone.jpg',)
    assert list(found.paths)[-1] == folder / 'deep/a.jpg'
    assert dict(found.sizes())['deep/a.jpg'] == (48, 30)
    found.refuse_leaks()


def test_a_broken_photo_has_no_size_but_a_reason(folder):
    (folder / 'b.JPG').write_bytes(b'no image')
    assert 'not an image' in str(dict(find_unlabeled_photos(folder, {}).sizes())['b.JPG'])


def test_labeled_photos_are_known_by_place_link_and_content(folder, tmp_path):
    labeled = tmp_path / 'labeled'
    labeled.mkdir()
    shutil.copy(folder / 'c.jpeg', labeled / 'other name.jpg')
    (labeled / 'alike.jpg').write_bytes(jpeg(46, 30, 9))  # not one of them, whatever its size
    (folder / 'linked.jpg').symlink_to(labeled / 'alike.jpg')
    train = [folder / 'a.jpg', labeled / 'other name.jpg', labeled / 'alike.jpg', 'missing.jpg']
    found = find_unlabeled_photos(folder, dict(train=train))
    assert found.names == ('b.JPG', 'deep/a.jpg')
    assert found.labeled == dict(train=('a.jpg', 'c.jpeg', 'linked.jpg'))
    found.refuse_leaks()


def test_one_changed_byte_makes_another_photo(folder, tmp_path):
    content = bytearray((folder / 'c.jpeg').read_bytes())
    content[-3] ^= 1
    (tmp_path / 'changed.jpg').write_bytes(content)
    assert not find_unlabeled_photos(folder, dict(train=[tmp_path / 'changed.jpg'])).labeled


@pytest.mark.parametrize('split', ['val', 'test'])
def test_photos_that_scores_are_measured_on_are_refused(folder, tmp_path, split):
    shutil.copy(folder / 'a.jpg', tmp_path / 'x.jpg')
    found = find_unlabeled_photos(folder, {split: [tmp_path / 'x.jpg']})
    assert found.names == ('b.JPG', 'c.jpeg', 'deep/a.jpg')
    with pytest.raises(
        InputError, match=f"1 photos in .* are photos of the {split} split .'a.jpg'"
    ):
        found.refuse_leaks()


def test_a_photo_of_two_splits_counts_as_scored(folder):
    photos = [folder / 'a.jpg']
    found = find_unlabeled_photos(folder, dict(val=photos, train=photos))
    assert found.labeled == dict(val=('a.jpg',))


def test_folders_without_photos_to_learn_from(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        find_unlabeled_photos(tmp_path / 'nowhere', {})
    with pytest.raises(InputError, match='is a file'):
        find_unlabeled_photos(folder / 'a.jpg', {})
    with pytest.raises(InputError, match='all 4 photos in .* are labeled .4 of train.'):
        find_unlabeled_photos(folder, dict(train=folder.rglob('*.*')))
    empty = tmp_path / 'empty'
    empty.mkdir()
    (empty / 'list.txt').touch()
    with pytest.raises(InputError, match='has no photos .1 files of other kinds.'):
        find_unlabeled_photos(empty, {})


def test_the_labeled_photos_of_a_config(tmp_path):
    data = Data(tmp_path)
    write_images(tmp_path / 'train', coco_content())
    photos = labeled_photos(data.cfg)
    assert photos.keys() == {'train', 'val', 'test'}
    assert photos['train'] == [os.path.join(tmp_path, 'train/', f'{n}.jpg') for n in range(3)]


@pytest.mark.parametrize('ann_file', ['', 's3://bucket/train.json'])
def test_annotations_that_cannot_be_compared_with_are_named(tmp_path, ann_file):
    data = Data(tmp_path)
    data.cfg.train_dataloader.dataset.update(ann_file=ann_file, data_root='')
    with pytest.raises(InputError, match=f'`train_dataloader.dataset`, .* {ann_file!r}, is not a'):
        labeled_photos(data.cfg)
